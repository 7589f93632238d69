# expect 11:23 cpuset_cpus and resources { cores } are both set: whole cores are chosen where the task is placed; expected only one of them
job "web" {
  group "g" {
    task "t" {
      driver = "docker"
      resources {
        cores = 2
      }
      config {
        image = "a"
        cpuset_cpus = "0-1"
      }
    }
  }
}

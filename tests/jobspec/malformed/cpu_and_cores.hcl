# expect 8:17 cpu = 500 and cores = 2 are both set: whole cores bring their CPU along; expected only one of cpu and cores
job "web" {
  group "g" {
    task "t" {
      driver = "docker"
      resources {
        cpu   = 500
        cores = 2
      }
      config {
        image = "a"
      }
    }
  }
}

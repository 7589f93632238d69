# expect 7:17 -1 cores are out of range; expected 1 to 4_096
job "web" {
  group "g" {
    task "t" {
      driver = "docker"
      resources {
        cores = -1
      }
      config {
        image = "a"
      }
    }
  }
}

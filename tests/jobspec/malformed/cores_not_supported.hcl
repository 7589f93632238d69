# expect 7:9 cores is not supported: whole cores cannot be reserved yet; use cpu in MHz; expected resources without it
job "web" {
  group "g" {
    task "t" {
      driver = "docker"
      resources {
        cores = 2
      }
      config {
        image = "a"
      }
    }
  }
}

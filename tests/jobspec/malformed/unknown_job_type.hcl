# expect 3:10 type: "weekly" is unknown; expected service, batch, system, sysbatch
job "web" {
  type = "weekly"
  group "g" {
    task "t" {
      driver = "docker"
      config {
        image = "a"
      }
    }
  }
}

# expect 3:14 priority 200 is out of range; expected 1 to 100
job "web" {
  priority = 200
  group "g" {
    task "t" {
      driver = "docker"
      config {
        image = "a"
      }
    }
  }
}

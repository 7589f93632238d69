# expect 3:11 found :; expected = between priority and its value
job "web" {
  priority: 5
  group "g" {
    task "t" {
      driver = "docker"
      config {
        image = "a"
      }
    }
  }
}

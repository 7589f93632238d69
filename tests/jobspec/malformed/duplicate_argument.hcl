# expect 4:3 priority is set twice, first on line 3; expected it once
job "web" {
  priority = 1
  priority = 2
  group "g" {
    task "t" {
      driver = "docker"
      config {
        image = "a"
      }
    }
  }
}

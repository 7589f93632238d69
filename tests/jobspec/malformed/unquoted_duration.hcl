# expect 6:22 5s is not a number; expected a number, or a string such as "5s"
job "web" {
  group "g" {
    task "t" {
      driver = "docker"
      kill_timeout = 5s
      config {
        image = "a"
      }
    }
  }
}

# expect 3:16 / by zero or out of range; expected another divisor
job "web" {
  priority = 1 / 0
  group "g" {
    task "t" {
      driver = "docker"
      config {
        image = "a"
      }
    }
  }
}

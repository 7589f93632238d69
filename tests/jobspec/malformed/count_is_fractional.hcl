# expect 4:13 count: 1.5 is not a whole number; expected a whole number
job "web" {
  group "g" {
    count = 1.5
    task "t" {
      driver = "docker"
      config {
        image = "a"
      }
    }
  }
}

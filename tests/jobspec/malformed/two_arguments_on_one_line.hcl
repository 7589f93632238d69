# expect 3:16 found name; expected the end of the line after the argument priority
job "web" {
  priority = 1 name = "b"
  group "g" {
    task "t" {
      driver = "docker"
      config {
        image = "a"
      }
    }
  }
}

# expect 4:13 count: "three" is not a number; expected a whole number
job "web" {
  group "g" {
    count = "three"
    task "t" {
      driver = "docker"
      config {
        image = "a"
      }
    }
  }
}

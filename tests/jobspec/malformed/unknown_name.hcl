# expect 3:10 service is no known name; expected a value: strings are quoted, "service"
job "web" {
  type = service
  group "g" {
    task "t" {
      driver = "docker"
      config {
        image = "a"
      }
    }
  }
}

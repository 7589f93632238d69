# expect 6:7 a template without destination; expected one such as "secrets/app.env"
job "web" {
  group "g" {
    task "t" {
      driver = "docker"
      template {
        data = "x"
      }
      config {
        image = "a"
      }
    }
  }
}

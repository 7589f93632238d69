# expect 6:7 template is not supported: templates do not exist yet; use env, or files in the image; expected task without it
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

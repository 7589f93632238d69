# expect 3:10 @ has no meaning here; expected a name, a value or a block
job "web" {
  name = @web
  group "g" {
    task "t" {
      driver = "docker"
      config {
        image = "a"
      }
    }
  }
}

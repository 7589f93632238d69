# expect 4:15 a block on one line holds one argument and no block; expected a new line before port
job "web" {
  group "g" {
    network { port "http" {} }
    task "t" {
      driver = "docker"
      config {
        image = "a"
      }
    }
  }
}

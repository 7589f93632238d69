# expect 4:5 netwrok is unknown in group; did you mean network?
job "web" {
  group "g" {
    netwrok {
    }
    task "t" {
      driver = "docker"
      config {
        image = "a"
      }
    }
  }
}

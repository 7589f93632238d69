# expect 4:5 netwrok is unknown in group; expected a known name; did you mean network?
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

# expect 8:18 comand is unknown in the configuration of docker; expected a known name; did you mean command?
job "web" {
  group "g" {
    task "t" {
      driver = "docker"
      config {
        image = "a"
        comand = "b"
      }
    }
  }
}

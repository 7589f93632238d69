# expect 6:21 "SIGTREM" is no signal; expected one such as SIGTERM; did you mean SIGTERM?
job "web" {
  group "g" {
    task "t" {
      driver = "docker"
      kill_signal = "SIGTREM"
      config {
        image = "a"
      }
    }
  }
}

# expect 9:25 a running task's environment cannot change by signal; expected restart or noop
job "web" {
  group "g" {
    task "t" {
      driver = "docker"
      template {
        data          = "A=1"
        destination   = "secrets/app.env"
        change_mode   = "signal"
        change_signal = "SIGHUP"
        env           = true
      }
      config {
        image = "a"
      }
    }
  }
}

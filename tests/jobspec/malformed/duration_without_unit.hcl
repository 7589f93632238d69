# expect 6:22 kill_timeout: "5" is no duration; expected one such as "30s" or "1h30m"
job "web" {
  group "g" {
    task "t" {
      driver = "docker"
      kill_timeout = "5"
      config {
        image = "a"
      }
    }
  }
}

# expect 3:3 periodic is not supported: periodic jobs do not exist yet; submit the job from a timer; expected job without it
job "web" {
  periodic {
    cron = "@daily"
  }
  group "g" {
    task "t" {
      driver = "docker"
      config {
        image = "a"
      }
    }
  }
}

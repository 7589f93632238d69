# expect 6:7 lifecycle is not supported: all tasks of a group start together; hooks do not exist yet; expected task without it
job "web" {
  group "g" {
    task "t" {
      driver = "docker"
      lifecycle {
        hook = "prestart"
      }
      config {
        image = "a"
      }
    }
  }
}

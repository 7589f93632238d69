# expect 6:3 healthy_deadline is not longer than min_healthy_time; expected more time to become healthy
job "web" {
  update {
    min_healthy_time = "10m"
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

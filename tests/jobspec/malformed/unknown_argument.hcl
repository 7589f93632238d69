# expect 3:3 prioirty is unknown in job; did you mean priority?
job "web" {
  prioirty = 70
  group "g" {
    task "t" {
      driver = "docker"
      config {
        image = "a"
      }
    }
  }
}

# expect 3:3 prioirty is unknown in job; expected a known name; did you mean priority?
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

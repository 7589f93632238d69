# expect 4:5 task "t" has no driver; expected driver = one of docker, exec, raw_exec
job "web" {
  group "g" {
    task "t" {
      config {
        image = "a"
      }
    }
  }
}

# expect 6:7 task "t" has no image; expected config { image = "…" }
job "web" {
  group "g" {
    task "t" {
      driver = "docker"
      config {
        command = "a"
      }
    }
  }
}

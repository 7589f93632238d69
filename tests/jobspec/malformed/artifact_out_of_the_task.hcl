# expect 8:23 "local/../../x" leads out of the task's directory; expected a path inside it
job "web" {
  group "g" {
    task "t" {
      driver = "docker"
      artifact {
        source      = "https://example.org/a.tar.gz"
        destination = "local/../../x"
      }
      config {
        image = "a"
      }
    }
  }
}

# expect 3:10 this string has no end on its line; expected a closing ", or \n, or a heredoc (<<EOT)
job "web" {
  name = "web
  group "g" {
    task "t" {
      driver = "docker"
      config {
        image = "a"
      }
    }
  }
}

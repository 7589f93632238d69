# expect 8:17 this heredoc has no end; expected a line with EOT alone
job "web" {
  group "g" {
    task "t" {
      driver = "docker"
      config {
        image = "a"
        args = [<<EOT
hello

      }
    }
  }
}

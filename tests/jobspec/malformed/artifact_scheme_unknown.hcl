# expect 7:18 "s3" cannot be fetched; expected http, https, git, file, ssh
job "web" {
  group "g" {
    task "t" {
      driver = "docker"
      artifact {
        source = "s3::https://example.org/a.tar.gz"
      }
      config {
        image = "a"
      }
    }
  }
}

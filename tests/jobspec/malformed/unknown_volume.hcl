# expect 7:23 volume "data" is not in the group; expected a volume block
job "web" {
  group "g" {
    task "t" {
      driver = "docker"
      volume_mount {
        volume      = "data"
        destination = "/data"
      }
      config {
        image = "a"
      }
    }
  }
}

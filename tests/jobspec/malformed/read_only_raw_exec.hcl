# expect 13:23 raw_exec cannot keep a task from writing to a volume; expected another driver
job "web" {
  group "g" {
    volume "data" {
      type   = "host"
      source = "data"
    }
    task "t" {
      driver = "raw_exec"
      volume_mount {
        volume      = "data"
        destination = "data"
        read_only   = true
      }
      config {
        command = "true"
      }
    }
  }
}

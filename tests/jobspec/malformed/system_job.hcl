# expect 3:10 type "system" is not supported: system jobs do not exist yet; use constraint { distinct_hosts = true } and a count; expected service or batch
job "web" {
  type = "system"
  group "g" {
    task "t" {
      driver = "docker"
      config {
        image = "a"
      }
    }
  }
}

# expect 7:19 per_alloc in a job of type system, whose allocations have no lasting index; expected false
job "web" {
  type = "system"
  group "g" {
    volume "data" {
      source    = "data"
      per_alloc = true
    }
    task "t" {
      driver = "docker"
      config {
        image = "a"
      }
    }
  }
}

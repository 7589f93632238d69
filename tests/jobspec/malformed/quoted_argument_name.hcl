# expect 7:9 an argument's name is not quoted in HCL2 (this is HCL1); expected a bare name, or a map: env = { "a.b" = "c" }
job "web" {
  group "g" {
    task "t" {
      driver = "docker"
      env {
        "A" = "b"
      }
      config {
        image = "a"
      }
    }
  }
}

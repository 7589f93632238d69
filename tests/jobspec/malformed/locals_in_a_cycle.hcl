# expect 3:7 locals depend on each other: a → b → a; expected one that does not
locals {
  a = local.b
  b = local.a
}

job "web" {
  name = local.a
  group "g" {
    task "t" {
      driver = "docker"
      config {
        image = "a"
      }
    }
  }
}

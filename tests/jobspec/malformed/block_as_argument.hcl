# expect 6:7 resources is a block; expected resources { … } without =
job "web" {
  group "g" {
    task "t" {
      driver = "docker"
      resources = {
        cpu = 100
      }
      config {
        image = "a"
      }
    }
  }
}

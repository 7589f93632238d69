# expect 6:18 static port 70000 is out of range; expected 1 to 65535
job "web" {
  group "g" {
    network {
      port "http" {
        static = 70000
      }
    }
    task "t" {
      driver = "docker"
      config {
        image = "a"
      }
    }
  }
}

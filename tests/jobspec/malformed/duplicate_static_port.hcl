# expect 9:18 static port 80 is also port "a"; expected another
job "web" {
  group "g" {
    network {
      port "a" {
        static = 80
      }
      port "b" {
        static = 80
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

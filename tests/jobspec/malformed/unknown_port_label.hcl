# expect 11:17 port "htpp" is no port of the group; expected one of http; did you mean http?
job "web" {
  group "g" {
    network {
      port "http" {}
    }
    task "t" {
      driver = "docker"
      config {
        image = "a"
        ports = ["htpp"]
      }
    }
  }
}

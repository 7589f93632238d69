# expect 3:3 group has 0 labels; expected one: group "name" {
job "web" {
  group {
    task "t" {
      driver = "docker"
      config {
        image = "a"
      }
    }
  }
}

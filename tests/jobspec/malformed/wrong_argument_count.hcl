# expect 3:10 upper() takes 1 argument; found 2
job "web" {
  name = upper("a", "b")
  group "g" {
    task "t" {
      driver = "docker"
      config {
        image = "a"
      }
    }
  }
}

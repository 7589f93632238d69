# expect 3:10 upper() got 2; expected 1 argument
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

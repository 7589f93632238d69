# expect 3:16 index 1 is outside of this list; expected less than 1
job "web" {
  name = ["a"][1]
  group "g" {
    task "t" {
      driver = "docker"
      config {
        image = "a"
      }
    }
  }
}

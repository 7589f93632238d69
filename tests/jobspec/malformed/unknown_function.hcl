# expect 3:10 there is no function uper; expected a known one; did you mean upper?
job "web" {
  name = uper("a")
  group "g" {
    task "t" {
      driver = "docker"
      config {
        image = "a"
      }
    }
  }
}

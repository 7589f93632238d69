# expect 9:3 a second group named "g"; expected different names
job "web" {
  group "g" {
    task "t" {
      driver = "raw_exec"
      config { command = "a" }
    }
  }
  group "g" {
    task "t" {
      driver = "raw_exec"
      config { command = "a" }
    }
  }
}

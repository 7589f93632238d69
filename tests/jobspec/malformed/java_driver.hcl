# expect 5:16 driver "java" is not supported yet; expected one of docker, exec, raw_exec
job "web" {
  group "g" {
    task "t" {
      driver = "java"
      config {
        image = "a"
      }
    }
  }
}

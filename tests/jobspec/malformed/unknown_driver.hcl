# expect 5:16 driver "dokcer" is unknown; expected one of docker, exec, raw_exec; did you mean docker?
job "web" {
  group "g" {
    task "t" {
      driver = "dokcer"
      config {
        image = "a"
      }
    }
  }
}

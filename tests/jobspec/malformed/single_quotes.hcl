# expect 3:10 ' does not quote; expected a string in double quotes
job "web" {
  name = 'web'
  group "g" {
    task "t" {
      driver = "docker"
      config {
        image = "a"
      }
    }
  }
}

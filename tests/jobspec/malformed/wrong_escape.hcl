# expect 3:12 \q is no escape; expected \n, \r, \t, \", \\, \uNNNN or \UNNNNNNNN
job "web" {
  name = "a\qb"
  group "g" {
    task "t" {
      driver = "docker"
      config {
        image = "a"
      }
    }
  }
}

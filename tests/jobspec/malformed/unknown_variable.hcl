# expect 7:10 there is no variable nmae; expected a declared one; did you mean name?
variable "name" {
  default = "x"
}

job "web" {
  name = var.nmae
  group "g" {
    task "t" {
      driver = "docker"
      config {
        image = "a"
      }
    }
  }
}

# expect 2:1 variable image has no value; expected -var image=… or a default
variable "image" {
  type = string
}

job "web" {
  group "g" {
    task "t" {
      driver = "docker"
      config {
        image = var.image
      }
    }
  }
}

# expect 2:1 variable n: n is below 5.
variable "n" {
  default = 9

  validation {
    condition     = var.n < 5
    error_message = "n is below 5."
  }
}

job "web" {
  group "g" {
    count = var.n
    task "t" {
      driver = "docker"
      config {
        image = "a"
      }
    }
  }
}

# A plain process that says hello every five seconds; needs no container runtime.
#   swarmlet job run examples/hello.hcl && swarmlet logs -f hello
#   swarmlet job run -var count=6 examples/hello.hcl

variable "count" {
  type    = number
  default = 3
}

job "hello" {
  group "hello" {
    count = var.count

    # A new version replaces one at a time; the next when the last has run for three seconds.
    update {
      max_parallel     = 1
      min_healthy_time = "3s"
    }

    task "say" {
      driver = "raw_exec"

      config {
        command = "/bin/sh"
        args    = ["-c", "while true; do echo \"$GREETING from ${node.unique.name}\"; sleep 5; done"]
      }

      env {
        GREETING = "hello"
      }

      resources {
        cpu    = 20
        memory = 16
      }
    }
  }
}

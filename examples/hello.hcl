# A plain process that says hello every five seconds; needs no container runtime.
#   swarmlet job run examples/hello.hcl && swarmlet logs -f hello

job "hello" {
  group "hello" {
    count = 3

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

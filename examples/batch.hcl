# Four workers that count to ten and are done.
#   swarmlet job run examples/batch.hcl

job "count" {
  type = "batch"

  group "worker" {
    count = 4

    restart {
      attempts = 2
      interval = "1m"
      delay    = "1s"
    }

    task "count" {
      driver = "raw_exec"

      config {
        command = "/bin/sh"
        args    = ["-c", "for i in $(seq 10); do echo \"$NOMAD_ALLOC_NAME: $i\"; sleep 0.2; done"]
      }

      resources {
        cpu    = 50
        memory = 16
      }
    }
  }
}

# Three web servers, each on a port that the cluster picks.
#   swarmlet job run examples/web.hcl
#   swarmlet job run -var count=5 examples/web.hcl

variable "image" {
  description = "An image with busybox in it."
  type        = string
  default     = "busybox:stable"
}

variable "count" {
  type    = number
  default = 3
}

job "web" {
  datacenters = ["*"]

  group "web" {
    count = var.count

    network {
      port "http" {} # a free port of the node
    }

    # One at a time; the next starts when the last has run for five seconds.
    update {
      max_parallel     = 1
      min_healthy_time = "5s"
    }

    task "httpd" {
      driver = "docker"

      config {
        image        = var.image
        network_mode = "host"
        command      = "sh"
        args = ["-c", <<-EOT
          mkdir -p /www
          echo "hello from $NOMAD_ALLOC_ID" > /www/index.html
          exec httpd -f -p ${NOMAD_ADDR_http} -h /www
        EOT
        ]
      }

      resources {
        cpu    = 50
        memory = 32
      }
    }
  }
}

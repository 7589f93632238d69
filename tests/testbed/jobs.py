"""Job files for the testbed: containers that only sleep, end at once when asked to, and need no registry."""

from __future__ import annotations

import json

from tests.testbed.images import IMAGE

#: Ends at once on a stop, so that no test waits for a kill timeout.
SLEEPER = 'trap "exit 0" TERM; sleep 1000000 & wait'


def service(
    name: str,
    *,
    count: int = 1,
    script: str = SLEEPER,
    cpu: int = 20,
    memory: int = 16,
    group: str = "",
    task: str = "",
    meta: str = "",
) -> str:
    """The text of a service job with one group of one task. `group`, `task`: further lines of those blocks."""
    return f"""
job "{name}" {{
  meta {{
    written = "{meta}"
  }}
  group "{name}" {{
    count = {count}
    update {{
      min_healthy_time = "1s"
    }}
    migrate {{
      min_healthy_time = "1s"
    }}
    {group}
    task "main" {{
      driver = "docker"
      {task}
      config {{
        image   = "{IMAGE}"
        command = "sh"
        args    = ["-c", {json.dumps(script)}]
      }}
      resources {{
        cpu    = {cpu}
        memory = {memory}
      }}
    }}
  }}
}}
"""

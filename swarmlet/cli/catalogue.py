"""Which commands there are, and the help that lists them: readable without loading anything."""

from __future__ import annotations

SUMMARY = "Run containers across machines without a special machine among them."
ADDRESS_HELP = "The node to ask (default: this machine's agent)."
TOKEN_HELP = "Admin token (or SWARMLET_TOKEN); not needed on the socket."  # noqa: S105 (a help text)

#: Command -> "module:attribute", and its line in --help. Modules load when their command runs: a command must
#: start fast, and `--help` must not import what it lists.
COMMANDS: dict[str, tuple[str, str]] = {
    "init": ("swarmlet.cli.cluster:init", "Make a cluster of this machine"),
    "join": ("swarmlet.cli.cluster:join", "Add this machine to a cluster"),
    "leave": ("swarmlet.cli.cluster:leave", "Take this machine out of its cluster"),
    "agent": ("swarmlet.cli.cluster:agent", "Run this machine's agent (after init or join)"),
    "dev": ("swarmlet.cli.cluster:dev", "A cluster of one in this terminal, in memory"),
    "status": ("swarmlet.cli.status:status", "The cluster in one look"),
    "explain": ("swarmlet.cli.status:explain", "Why a job is as it is"),
    "job": ("swarmlet.cli.job:job", "Run, validate, stop and look at jobs"),
    "deployment": ("swarmlet.cli.deployment:deployment", "Look at rollouts; pause, resume or fail them"),
    "alloc": ("swarmlet.cli.alloc:alloc", "Look at allocations, their logs; stop or restart them"),
    "logs": ("swarmlet.cli.job_logs:job_logs", "The logs of a job's tasks"),
    "port-forward": ("swarmlet.cli.port_forward:port_forward", "A task's ports on this machine"),
    "top": ("swarmlet.cli.top:top", "Nodes and tasks by CPU and memory, live"),
    "node": ("swarmlet.cli.node:node", "Look at nodes; drain them"),
    "var": ("swarmlet.cli.var:var", "Write and read encrypted variables"),
    "volume": ("swarmlet.cli.volume:volume", "Make volumes on nodes; snapshot, restore, delete them"),
    "members": ("swarmlet.cli.members:members", "Who is there: state, since when, health, round trip"),
    "event": ("swarmlet.cli.event:event", "Tell all nodes something small, and list what was told"),
    "query": ("swarmlet.cli.event:query", "Ask nodes by gossip; who has heard it, who answers what"),
    "gossip": ("swarmlet.cli.gossip:gossip", "Replace the keys that seal what members say"),
    "simulate": ("swarmlet.cli.simulate:simulate", "Where jobs would go, and what survives a loss"),
    "token": ("swarmlet.cli.token:token", "Create, list and revoke join tokens"),
    "system": ("swarmlet.cli.system:system", "Housekeeping for the whole cluster"),
    "operator": ("swarmlet.cli.operator:operator", "Consensus and other internals"),
    "version": ("swarmlet.cli.status:version", "This program's version"),
}

EXAMPLES = """Examples:
  sudo swarmlet init                        the first machine
  sudo swarmlet join swl1-...@10.0.0.1      every other machine
  swarmlet job run web.hcl                  run something
  swarmlet status"""


def overview() -> str:
    """The text of `swarmlet --help`, exactly as the command-line library would lay it out (a test compares)."""
    options = (
        ("--address ADDR", ADDRESS_HELP),
        ("--token TOKEN", TOKEN_HELP),
        ("-h, --help", "Show this message and exit."),
    )
    commands = [(name, line) for name, (_, line) in COMMANDS.items()]
    parts = [
        "Usage: swarmlet [OPTIONS] COMMAND [ARGS]...",
        f"  {SUMMARY}",
        "\n".join(["Options:", *_columns(options)]),
        "\n".join(["Commands:", *_columns(commands)]),
        "\n".join(f"  {line}" for line in EXAMPLES.split("\n")),
    ]
    return "\n\n".join(parts) + "\n"


def _columns(rows: list[tuple[str, str]] | tuple[tuple[str, str], ...]) -> list[str]:
    width = max(len(name) for name, _ in rows)
    return [f"  {name:<{width}}  {line}" for name, line in rows]

"""Writes the reference pages that follow from the code: `docs/reference/cli.md` and `docs/reference/http-api.md`.

    python scripts/document.py           write them
A test compares them with what this would write.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import click

from swarmlet.api.route import Route
from swarmlet.api.server import ROUTES
from swarmlet.cli.main import root
from swarmlet.security.access import ANONYMOUS, capabilities

REFERENCE = Path(__file__).resolve().parent.parent / "docs" / "reference"
WIDTH = 80
#: A handler's docstring: method, path, perhaps "(ours)", perhaps its body, perhaps what it does.
SUMMARY = re.compile(r"[A-Z]+ \S+?( \(ours\))?(?: (\{.*\}))?(?:: (.*?))?\.?")

CLI_HEAD = """\
# The command line

Made by `scripts/document.py` from the program's own help.

- `-x` and `--x` are the same for long options: `-json`, `--json`.
- Ids may be cut to their first characters wherever they fit only one thing.
- Exit codes: 0 done, 1 refused or failed, 2 wrong usage (and, for what watches a rollout: not all healthy), 130 interrupted.
- With `--json` the answer is JSON on standard output. A job that is not valid is `{"Valid": false, "Errors": [...]}` there; any other
  failure is a sentence on standard error.
- The node that is asked: `--address`, else `SWARMLET_ADDR`, `NOMAD_ADDR`, else the Unix socket in `SWARMLET_DATA_DIR`,
  `/var/lib/swarmlet` or `~/.local/state/swarmlet`, else `127.0.0.1:4646`. The socket needs no token; TCP needs the admin
  token in `--token`, `SWARMLET_TOKEN` or `NOMAD_TOKEN`.
"""

HTTP_HEAD = """\
# The HTTP API

Paths and JSON field names are those of Nomad's HTTP API, as far as this version goes; paths that are ours alone are marked.
The table is made by `scripts/document.py` from the routes themselves.

- **Where.** A Unix socket (`api.sock` in the data directory, mode 0660) and TCP on 127.0.0.1:4646. Any node answers, and
  forwards to the leader what the leader must do. There is no TLS yet, so the API does not listen beyond loopback; requests
  whose `Host` or `Origin` is another than loopback are refused.
- **Who.** The socket needs no token. TCP needs `X-Nomad-Token: TOKEN` or `Authorization: Bearer TOKEN`; the first node's
  `admin.token` holds it. What needs the capability `status:read` needs no token.
- **Blocking queries.** `?index=N&wait=30s` waits until the answer's `X-Nomad-Index` is above N.
- **Consistency.** A read holds everything acknowledged before it (ReadIndex), at any node, and is refused without a quorum. With
  `?stale` the node answers from its own copy, quorum or not, and says how old that is: `X-Nomad-LastContact` (milliseconds since a
  leader was heard of; where none was since the agent started, since the newest command that it has applied),
  `X-Nomad-KnownLeader`, and `X-Swarmlet-Applied-Index` (how far the log is applied there; on stale answers alone). What
  reaches into an allocation (logs, files, `exec`, signals, `forward`) takes `?stale` too: it then works without a quorum where
  the allocation's node can be reached.
- **Lists.** `?prefix=`, `?per_page=` and `?next_token=` (from the header `X-Nomad-NextToken`), `?namespace=*` for all.
- **Readers that stand still.** An answer that is not taken within a minute ends with its connection; so do streams (logs that are followed,
  copies, snapshots) that nobody takes anything from for an hour.
- **Errors** are sentences in plain text; the header `X-Swarmlet-Error` names the kind. 400 invalid, 403 not allowed, 404 not
  there, 409 in conflict, 429 overloaded (with `Retry-After`), 500 and 503 no leader or not now.

```
$ curl --unix-socket /var/lib/swarmlet/api.sock http://localhost/v1/status/leader
"10.77.2.1:4747"
```

"""


def cli_page() -> str:
    """The page about the command line."""
    parts = [CLI_HEAD]
    _describe(root, "swarmlet", parts)
    return "\n".join(parts)


def _describe(command: click.Command, name: str, parts: list[str]) -> None:
    context = click.Context(
        command,
        info_name=name,
        terminal_width=WIDTH,
        max_content_width=WIDTH,
        help_option_names=["-h", "--help"],
    )
    text = "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
    parts.append(f"## {name}\n\n```text\n{text}\n```\n")
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            assert found is not None
            _describe(found, f"{name} {child}", parts)


def http_page() -> str:
    """The page about the HTTP API."""
    lines = ["| method | path | needs | |", "|---|---|---|---|"]
    lines += [_row(route) for route in ROUTES]
    return HTTP_HEAD + "\n".join(lines) + "\n"


def _row(route: Route) -> str:
    summary = (inspect.getdoc(route.handler) or "").partition("\n")[0]
    found = SUMMARY.fullmatch(summary)
    ours, body, text = found.groups() if found else (None, None, None)
    notes = "; ".join(filter(None, (ours and "ours", body and f"body `{body}`", text))).replace("|", "\\|")
    needs = f"`{route.capability.value}`" + (
        ", no token" if route.capability in capabilities(ANONYMOUS) else ""
    )
    return f"| {', '.join(route.methods)} | `{route.path}` | {needs} | {notes} |"


PAGES = {REFERENCE / "cli.md": cli_page, REFERENCE / "http-api.md": http_page}


if __name__ == "__main__":
    for path, page in PAGES.items():
        path.write_text(page(), encoding="utf-8")

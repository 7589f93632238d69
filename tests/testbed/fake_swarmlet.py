"""Stands in for the program where the tests' own means are tested: its commands, without a cluster behind them.

Every "member" says that the first host leads and that as many nodes are ready as have written their name.
"""

from __future__ import annotations

import json
import socket
import sys
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer

TOKEN = "swl1-abc-def"


class _Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True


def main() -> None:
    command, *rest = sys.argv[1:]
    if command == "status":
        sys.stdout.write(json.dumps({"nodes": 3, "arguments": rest}))
        return
    if command == "fail":
        sys.exit("fail: asked to")
    data = Path(rest[rest.index("--data-dir") + 1])
    members = data.parent.parent
    if command == "init":
        address = rest[rest.index("--advertise") + 1]
        (members / "leader").write_text(f"{address}:4747")
        sys.stdout.write(f"add a machine:  sudo swarmlet join {TOKEN}@{address}   (valid 24 h)\n")
    elif command == "join":
        if (data / "refuse").exists():
            sys.exit("the token has expired")
        assert rest[0] == f"{TOKEN}@{(members / 'leader').read_text().removesuffix(':4747')}"
    else:
        assert command == "agent"
        assert (data / "member").exists(), "an agent restarts only what joined before"
    (data / "member").write_text(socket.gethostname())
    serve(data / "api.sock", members)


def serve(path: Path, members: Path) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/v1/status/leader":
                answer: object = (members / "leader").read_text()
            else:
                names = [found.read_text() for found in sorted(members.glob("h*/swarmlet/member"))]
                answer = [{"Name": name, "Status": "ready"} for name in names]
            content = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the base class's name
            """Say nothing."""

    path.unlink(missing_ok=True)
    with _Server(str(path), Handler) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()

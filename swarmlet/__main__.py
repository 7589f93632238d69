"""`python -m swarmlet`, and the console script."""

from __future__ import annotations

import sys

from swarmlet import VERSION


def main() -> int:
    """Run the command line. What is asked most often is answered before it is imported."""
    if sys.argv[1:] in (["--version"], ["-version"], ["-v"]):
        sys.stdout.write(f"swarmlet {VERSION}\n")
        return 0
    if sys.argv[1:] in (["--help"], ["-help"], ["-h"]):
        from swarmlet.cli.catalogue import overview

        sys.stdout.write(overview())
        return 0
    if sys.argv[1:] in (["status"], ["status", "--json"], ["status", "-json"]):
        from swarmlet.api.client import Client
        from swarmlet.cli.cluster_status import show_status
        from swarmlet.cli.ending import ended

        return ended(lambda: show_status(Client(), as_json=len(sys.argv) > 2))
    from swarmlet.cli.main import run

    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())

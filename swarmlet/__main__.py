"""`python -m swarmlet`, and the console script."""

from __future__ import annotations

import sys

from swarmlet import VERSION


def main() -> int:
    """Run the command line. `--version` and `--help` are answered before it is imported: they are asked often."""
    if sys.argv[1:] in (["--version"], ["-version"], ["-v"]):
        sys.stdout.write(f"swarmlet {VERSION}\n")
        return 0
    if sys.argv[1:] in (["--help"], ["-help"], ["-h"]):
        from swarmlet.cli.catalogue import overview

        sys.stdout.write(overview())
        return 0
    from swarmlet.cli.main import run

    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())

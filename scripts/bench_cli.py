"""How long a command takes, whole process: `--version`, `--help`, and `status` against a running agent.

    .venv/bin/python scripts/bench_cli.py --runs 20 --json cli.json
    .venv/bin/python scripts/bench_cli.py --program dist/swarmlet      # the one file that scripts/build makes

The bare interpreter is measured in turn with the commands: on a busy machine it tells how much of a number is
the machine's. The one file is unpacked before the first measured run. Starts an agent of its own on loopback unless `--address` names one. Bars: 40, 80 and 120 ms.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts import benchmark

ROOT = Path(__file__).resolve().parent.parent
BARE, VERSION, HELP, STATUS = "bare_python", "version", "help", "status"
BARS_MS = {VERSION: 40.0, HELP: 80.0, STATUS: 120.0}
RUNS_MIN = 20


def main() -> int:
    """Measure, print, and end with 1 where a bar does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=RUNS_MIN, help="runs per command (at least 20)")
    parser.add_argument("--address", default="", help="the agent to ask (default: one is started)")
    parser.add_argument("--program", type=Path, metavar="FILE", help="the one file (default: this tree)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    options = parser.parse_args()
    program = [str(options.program.resolve())] if options.program else [sys.executable, "-m", "swarmlet"]
    with agent(program, options.address) as address:
        seen = measure(program, max(RUNS_MIN, options.runs), address)
    for name, times in seen.items():
        bar = f"  (bar {BARS_MS[name]:.0f} ms)" if name in BARS_MS else ""
        print(
            f"{name:<12} median {statistics.median(times):6.1f} ms  min {min(times):6.1f}  max {max(times):6.1f}{bar}"
        )
    if options.json:
        cases = [
            benchmark.case(name, "milliseconds", "ms", times, None if name == BARE else (BARE, seen[BARE]))
            for name, times in seen.items()
        ]
        options.json.write_text(json.dumps(benchmark.report(cases), indent=2) + "\n")
    return int(any(statistics.median(seen[name]) >= bar for name, bar in BARS_MS.items()))


def measure(program: list[str], runs: int, address: str) -> dict[str, list[float]]:
    """Milliseconds of every run; the commands take turns, so that a busy moment hits all of them."""
    commands = {
        BARE: [sys.executable, "-c", "pass"],
        VERSION: [*program, "--version"],
        HELP: [*program, "--help"],
        STATUS: [*program, "status"],
    }
    environment = {**os.environ, "SWARMLET_ADDR": address}
    seen: dict[str, list[float]] = {name: [] for name in commands}
    # One round to warm the page cache and to write the byte code.
    for number in range(runs + 1):
        for name, command in commands.items():
            started = time.perf_counter()
            done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False)
            elapsed = (time.perf_counter() - started) * 1000
            if done.returncode:
                raise SystemExit(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.decode()}")
            if number:
                seen[name].append(elapsed)
    return seen


@contextlib.contextmanager
def agent(program: list[str], address: str) -> Iterator[str]:
    """The address of a running agent: the given one, or one that lives as long as this."""
    if address:
        yield address
        return
    with tempfile.TemporaryDirectory(prefix="swl-") as folder:
        data = os.path.join(folder, "n1")
        started = subprocess.run(
            [*program, "init", "--data-dir", data, "--name", "n1", "--bind", "127.0.0.1",
             "--port", str(free_port()), "--api-port", "-1", "--no-docker", "--detach", "--json"],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if started.returncode:
            raise SystemExit(started.stderr)
        try:
            yield f"unix://{data}/api.sock"
        finally:
            pid = int(Path(data, "lock").read_text())
            os.kill(pid, signal.SIGTERM)
            while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():
                time.sleep(0.05)


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())

"""The agent as a unit of systemd: what the unit says, when there is one, and how it is started.

The unit is restarted whatever ends it, for ever, and only while its data directory holds a node: after
`swarmlet leave` the condition fails, and systemd lets it rest.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from swarmlet.cli import program
from swarmlet.errors import Unavailable

NAME = "swarmlet.service"
#: Exists where systemd runs as the first process (sd_booted(3)).
BOOTED = Path("/run/systemd/system")
UNIT = Path("/etc/systemd/system") / NAME
#: Loading units and starting one; a hung systemd is named instead of waited for.
SYSTEMCTL_SECONDS = 60.0

_TEXT = """[Unit]
Description=swarmlet agent
Wants=network-online.target
After=network-online.target docker.service
ConditionPathExists={identity}
# It is restarted for ever: giving up would need a person.
StartLimitIntervalSec=0

[Service]
Type=exec
ExecStart={command} agent --data-dir {data_dir}
{environment}Restart=always
RestartSec=1
# The tasks outlive the agent.
KillMode=process
# A drain before the machine goes down may take five minutes; everything else ends in seconds.
TimeoutStopSec=330
LimitNOFILE=65536
TasksMax=infinity

[Install]
WantedBy=multi-user.target
"""


def is_wanted(*, user: int, booted: Path = BOOTED) -> bool:
    """Whether init and join make a unit: as root, on a machine that systemd runs."""
    return user == 0 and booted.is_dir()


def unit_text(
    data_dir: str, *, command: Sequence[str] = (), variables: Mapping[str, str] | None = None
) -> str:
    """The unit's file. `command`: what is run (default: this program); `variables`: what it needs to be found."""
    lines = [f"Environment={quote(f'{name}={value}')}\n" for name, value in (variables or {}).items()]
    return _TEXT.format(
        identity=_path(os.path.join(data_dir, "identity")),
        command=" ".join(map(quote, command or program.command())),
        data_dir=quote(data_dir),
        environment="".join(lines),
    )


def quote(text: str) -> str:
    """One word of a command line or assignment, as systemd.service(5) reads it."""
    safe = _path(text).replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$")
    return f'"{safe}"' if any(character in safe for character in " \t'\"\\;") else safe


def _path(text: str) -> str:
    """A value that is not split into words: only specifiers count."""
    return text.replace("%", "%%")


def start(data_dir: str, *, unit: Path = UNIT) -> None:
    """Write the unit, enable it and start it (anew). Raises Unavailable saying which step failed."""
    unit.write_text(unit_text(data_dir, variables=program.unit_variables()), encoding="utf-8")
    for step in (["daemon-reload"], ["enable", NAME], ["restart", NAME]):
        _systemctl(step)


def disable(data_dir: str, *, unit: Path = UNIT) -> bool:
    """After leaving: the unit of this data directory, if there is one, does not start at boot any more."""
    try:
        text = unit.read_text(encoding="utf-8")
    except OSError:
        return False
    if f"--data-dir {quote(data_dir)}\n" not in text:
        return False
    _systemctl(["disable", NAME])
    return True


def _systemctl(step: list[str]) -> None:
    try:
        done = subprocess.run(
            ["systemctl", *step], capture_output=True, text=True, check=False, timeout=SYSTEMCTL_SECONDS
        )
    except FileNotFoundError as error:
        raise Unavailable("systemctl is not installed; run the agent with --detach instead") from error
    except subprocess.TimeoutExpired as error:
        raise Unavailable(
            f"systemctl {' '.join(step)} did not end within {SYSTEMCTL_SECONDS:g} s; run the agent with --detach instead"
        ) from error
    if done.returncode:
        said = done.stderr.strip() or f"exit code {done.returncode}"
        raise Unavailable(f"systemctl {' '.join(step)} failed: {said}; run the agent with --detach instead")

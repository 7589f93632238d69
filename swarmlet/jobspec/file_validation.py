"""What must hold for a task's templates and artifacts."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator

from swarmlet.jobspec.evaluate import suggestion
from swarmlet.model.job import (
    ARTIFACTS_MAX,
    HOUR_NS,
    TEMPLATES_MAX,
    Artifact,
    ChangeMode,
    Task,
    Template,
)

_PERMS = re.compile(r"0?[0-7]{3,4}\Z")
_SCHEME = re.compile(r"(?:(?P<forced>[a-z0-9]+)::)?(?:(?P<scheme>[a-z][a-z0-9+.-]*)://)?", re.IGNORECASE)
SCHEMES = ("http", "https", "git", "file", "ssh")
OPTIONS = ("checksum", "archive", "filename", "ref", "depth", "sshkey")
#: Beyond this a change would be forgotten before it does anything.
SPLAY_NS_MAX = HOUR_NS

Found = Iterator[tuple[tuple[str, ...], str]]


def file_findings(path: tuple[str, ...], task: Task) -> Found:
    """Everything wrong with them, with its place below the task."""
    if len(task.templates) > TEMPLATES_MAX:
        yield path, f"{len(task.templates)} templates; expected at most {TEMPLATES_MAX}"
    if len(task.artifacts) > ARTIFACTS_MAX:
        yield path, f"{len(task.artifacts)} artifacts; expected at most {ARTIFACTS_MAX}"
    seen: set[str] = set()
    for number, template in enumerate(task.templates[:TEMPLATES_MAX]):
        here = (*path, "template", str(number))
        yield from _template(here, template)
        if template.destination in seen:
            yield (
                (*here, "destination"),
                f'a second template for "{template.destination[:80]}"; expected different files',
            )
        seen.add(template.destination)
    for number, artifact in enumerate(task.artifacts[:ARTIFACTS_MAX]):
        yield from _artifact((*path, "artifact", str(number)), artifact)


def _template(path: tuple[str, ...], template: Template) -> Found:
    if bool(template.data) == bool(template.source):
        yield path, "a template has either data or source; expected one of them"
    if not template.destination:
        yield path, 'a template without destination; expected one such as "secrets/app.env"'
    yield from _inside((*path, "destination"), template.destination)
    yield from _inside((*path, "source"), template.source)
    if not _PERMS.match(template.perms):
        yield (*path, "perms"), f'"{template.perms[:20]}" is no file mode; expected octal digits such as 0600'
    if not 0 <= template.splay_ns <= SPLAY_NS_MAX:
        yield (*path, "splay"), "splay is out of range; expected 0s to 1h"
    for name in ("uid", "gid"):
        value = getattr(template, name)
        if value is not None and not 0 <= value < 2**32 - 1:
            yield (*path, name), f"{name} {value} is out of range; expected a number from 0 on"
    if not template.left_delimiter or not template.right_delimiter:
        yield path, "a delimiter is empty; expected characters such as [[ and ]]"
    yield from _change(path, template)


def _change(path: tuple[str, ...], template: Template) -> Found:
    is_signal = template.change_mode is ChangeMode.SIGNAL
    if is_signal and template.change_signal not in signal.Signals.__members__:
        hint = suggestion(template.change_signal.upper(), list(signal.Signals.__members__))
        yield (
            (*path, "change_signal"),
            f'"{template.change_signal[:40]}" is no signal; expected one such as SIGHUP{hint}',
        )
    if template.change_mode is ChangeMode.SCRIPT and (
        template.change_script is None or not template.change_script.command
    ):
        yield path, 'change_mode "script" without a script; expected change_script { command = "…" }'
    if template.is_env and template.change_mode in {ChangeMode.SIGNAL, ChangeMode.SCRIPT}:
        yield (
            (*path, "change_mode"),
            f"a running task's environment cannot change by {template.change_mode}; expected restart or noop",
        )


def _artifact(path: tuple[str, ...], artifact: Artifact) -> Found:
    if not artifact.source:
        yield path, "an artifact without source; expected a URL, a git repository or a file"
    found = _SCHEME.match(artifact.source)
    scheme = (found["forced"] or found["scheme"] or "file").lower() if found else "file"
    if scheme not in SCHEMES:
        yield (
            (*path, "source"),
            f'"{scheme[:20]}" cannot be fetched; expected {", ".join(SCHEMES)}',
        )
    yield from _inside((*path, "destination"), artifact.destination)
    for name in artifact.options:
        if name not in OPTIONS:
            yield (*path, "options"), f"option {name[:40]} is unknown; expected {', '.join(OPTIONS)}"
    if "sshkey" in artifact.options:
        yield (*path, "options"), "a key in a job file is no secret; expected a key of the node's user"


def _inside(path: tuple[str, ...], place: str) -> Found:
    if ".." in place.split("/") or "\0" in place:
        yield path, f'"{place[:80]}" leads out of the task\'s directory; expected a path inside it'

"""Variables: small encrypted maps of text under a path, and the keys that they are encrypted under.

The replicated state holds both only sealed: the items under a key of the keyring, the keys under the cluster key.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from swarmlet.errors import InvalidInput
from swarmlet.ids import Namespace
from swarmlet.wire import Record

#: Nomad's bounds: a path is short enough for a table's column and a key, a variable small enough to be held by all.
PATH_CHARS_MAX = 128
ITEMS_BYTES_MAX = 64 * 1024
#: A key of an item: a name in a template or an environment variable.
ITEM_KEY_CHARS_MAX = 128
#: Paths that begin so have a meaning of their own; only jobs' own paths do yet.
RESERVED_ROOT = "nomad"
JOBS_ROOT = "nomad/jobs"

#: Nomad's characters, and the dot, which names of jobs may have; no part is "." or "..".
_PATH = re.compile(r"(?!\.\.?(/|$))[A-Za-z0-9~_.-]+(/(?!\.\.?(/|$))[A-Za-z0-9~_.-]+)*")


class Variable(Record):
    """A variable as every replica holds it. Times are wall time in ns."""

    namespace: Namespace
    path: str
    #: The key of the keyring that opens it.
    key_id: int
    sealed: bytes
    create_index: int = 0
    modify_index: int = 0
    create_time_ns: int = 0
    modify_time_ns: int = 0


class VariableKey(Record):
    """A key of the keyring, sealed under the cluster key. The one with the highest id seals what is new."""

    id: int
    sealed: bytes
    create_index: int = 0
    create_time_ns: int = 0


def check_path(path: str) -> None:
    """Raises InvalidInput unless a variable may live at `path`."""
    if len(path) > PATH_CHARS_MAX or not _PATH.fullmatch(path):
        raise InvalidInput(
            f"variable path {path[: PATH_CHARS_MAX + 1]!r}: expected 1 to {PATH_CHARS_MAX} letters, digits, "
            "'-', '_', '~', '.' in parts that are separated by '/'"
        )
    if path == RESERVED_ROOT or (
        path.startswith(f"{RESERVED_ROOT}/") and path != JOBS_ROOT and not path.startswith(f"{JOBS_ROOT}/")
    ):
        raise InvalidInput(
            f"variable path {path!r}: below '{RESERVED_ROOT}/' only '{JOBS_ROOT}' is for users"
        )


def check_items(items: dict[str, str]) -> None:
    """Raises InvalidInput unless `items` fit into a variable. Never quotes a value."""
    if not items:
        raise InvalidInput("a variable needs at least one item; to remove it, delete it")
    size = 0
    for key, value in items.items():
        if not key or len(key) > ITEM_KEY_CHARS_MAX:
            raise InvalidInput(
                f"the key of an item must have 1 to {ITEM_KEY_CHARS_MAX} characters, not {len(key)}"
            )
        size += len(key.encode()) + len(value.encode())
    if size > ITEMS_BYTES_MAX:
        raise InvalidInput(f"the items have {size:_} B, a variable holds at most {ITEMS_BYTES_MAX:_} B")


def job_path(job: str) -> str:
    """Where a job's own variables are."""
    return f"{JOBS_ROOT}/{job}"


def may_read(
    path: str, job: str, group: str, task: str, *, groups: Iterable[str] = (), tasks: Iterable[str] = ()
) -> bool:
    """Whether a task may read the variable at `path` of its own namespace.

    It may read `nomad/jobs`, which all jobs share, `nomad/jobs/JOB`, and what is below that; but not what is named for
    another group (`groups`: all of the job), nor, below its own group, for another task (`tasks`: all of the group).
    """
    root = job_path(job)
    if path in {JOBS_ROOT, root}:
        return True
    if not path.startswith(root + "/"):
        return False
    first, _, rest = path[len(root) + 1 :].partition("/")
    if first != group:
        return first not in set(groups)
    second = rest.partition("/")[0]
    return second in {"", task} or second not in set(tasks)

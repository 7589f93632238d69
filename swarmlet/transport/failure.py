"""How errors cross the mesh: by the name of their class in `swarmlet.errors`, with what the class carries."""

from __future__ import annotations

from swarmlet import errors
from swarmlet.errors import SwarmletError
from swarmlet.wire import Codec, Record

#: An error message longer than this is cut: it is for people.
MESSAGE_CHARACTERS_MAX = 8192
#: An invalid job's list of problems; nobody reads more at once.
PROBLEMS_MAX = 100


class Failure(Record, tag="failure"):
    """An error on the wire."""

    name: str
    message: str
    hint: str | None = None
    retry_after_seconds: float = 0.0
    code: str = ""
    temporary: bool = False
    problems: tuple[str, ...] = ()


_codec: Codec[Failure] = Codec(Failure, limit=1024 * 1024)


def pack_error(error: SwarmletError) -> bytes:
    """The body of an ERROR frame."""
    name = next(c.__name__ for c in type(error).__mro__ if c.__module__ == errors.__name__)
    failure = Failure(
        name=name,
        message=str(error)[:MESSAGE_CHARACTERS_MAX],
        hint=getattr(error, "hint", None),
        retry_after_seconds=getattr(error, "retry_after_seconds", 0.0),
        code=getattr(error, "code", ""),
        temporary=getattr(error, "temporary", False),
        problems=tuple(p[:MESSAGE_CHARACTERS_MAX] for p in getattr(error, "problems", [])[:PROBLEMS_MAX]),
    )
    return _codec.encode(failure)


def unpack_error(body: bytes) -> SwarmletError:
    """The error in an ERROR frame. A class this version does not know becomes Unavailable.

    Raises WireError when the body is no error.
    """
    failure = _codec.decode(body)
    match failure.name:
        case "NotLeader":
            return errors.NotLeader(failure.hint)
        case "Overloaded":
            return errors.Overloaded(failure.message, failure.retry_after_seconds)
        case "JoinRefused":
            return errors.JoinRefused(failure.code, failure.message)
        case "DriverError":
            return errors.DriverError(failure.message, temporary=failure.temporary)
        case "InvalidJob":
            return errors.InvalidJob(list(failure.problems) or failure.message)
        case name:
            kind = getattr(errors, name, None)
            if isinstance(kind, type) and issubclass(kind, SwarmletError):
                return kind(failure.message)
            return errors.Unavailable(failure.message)

"""A route and the capability it needs, and what handlers share: views, blocking queries, JSON answers."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NamedTuple, TypeVar

import msgspec
from aiohttp import web

from swarmlet.api.context import CONTEXT
from swarmlet.errors import InvalidInput, NoLeader, NotFound
from swarmlet.ids import DEFAULT_NAMESPACE, Namespace
from swarmlet.security.access import Capability
from swarmlet.state.view import Table, View

T = TypeVar("T")

#: Nomad's default and upper limit of a blocking query.
WAIT_SECONDS_MAX = 300.0
#: Of a 64-bit number.
DIGITS_MAX = 19
#: On stale answers alone: how far the log is applied in the copy that they were made from.
APPLIED_INDEX_HEADER = "X-Swarmlet-Applied-Index"
STALE_HINT = "?stale answers with what this node last knew"
#: Where a request keeps the headers of `say_age`.
_AGE: web.RequestKey[dict[str, str]] = web.RequestKey("age_headers", dict)


class Route(NamedTuple):
    """Methods (PUT and POST are the same in Nomad's API), path, capability and handler."""

    methods: tuple[str, ...]
    path: str
    capability: Capability
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]]


GET = ("GET",)
WRITE = ("PUT", "POST")
DELETE = ("DELETE",)

_encoder = msgspec.json.Encoder()


def encode(value: Any) -> bytes:
    """JSON."""
    return _encoder.encode(value)


def answer(
    value: Any, view: View | None = None, *, index: int | None = None, status: int = 200
) -> web.Response:
    """A JSON answer with Nomad's index headers."""
    headers = {} if view is None else index_headers(view, view.index if index is None else index)
    return web.Response(
        body=_encoder.encode(value), status=status, content_type="application/json", headers=headers
    )


def index_headers(view: View, index: int) -> dict[str, str]:
    """What Nomad says beside an answer about what it was made from. Of a stale answer `say_age` says the rest."""
    return {
        "X-Nomad-Index": str(max(1, index)),
        "X-Nomad-KnownLeader": "true",
        "X-Nomad-LastContact": "0",
    }


def namespace_of(request: web.Request) -> Namespace:
    """The namespace asked for; "*" is for lists (see `namespaces_of`)."""
    return Namespace(request.query.get("namespace") or DEFAULT_NAMESPACE)


def listed_namespace(request: web.Request) -> Namespace | None:
    """For lists: None means all."""
    namespace = namespace_of(request)
    return None if namespace == "*" else namespace


async def view_for(request: web.Request) -> View:
    """What a read is answered from: everything acknowledged before it (ReadIndex); with `stale`, what this node has.

    Raises NoLeader without a quorum, unless `stale`.
    """
    replica = request.app[CONTEXT].replica
    if not truth(request, "stale"):
        try:
            return await replica.barrier()
        except NoLeader as error:
            error.add_note(STALE_HINT)
            raise
    view = replica.view
    request[_AGE] = {
        "X-Nomad-KnownLeader": "true" if replica.leader is not None else "false",
        "X-Nomad-LastContact": str(round(replica.staleness_seconds * 1000)),
        APPLIED_INDEX_HEADER: str(view.index),
    }
    return view


async def say_age(request: web.Request, response: web.StreamResponse) -> None:
    """Before any answer is sent: one made from this node's own copy says how old that is."""
    response.headers.update(request.get(_AGE, {}))


async def fresh_view(request: web.Request, tables: Iterable[Table]) -> tuple[View, int]:
    """The view to answer from (see `view_for`) and the index to report, after waiting as `index` and `wait` ask for."""
    context = request.app[CONTEXT]
    replica = context.replica
    wanted = list(tables)
    minimum = integer(request, "index", 0)
    if minimum > 0:
        seconds = duration(request.query.get("wait", ""), WAIT_SECONDS_MAX)

        def is_ready() -> bool:
            return max(replica.view.table_index(table) for table in wanted) > minimum

        await replica.watches.wait_changed(wanted, is_ready, min(seconds, WAIT_SECONDS_MAX))
    view = await view_for(request)
    return view, max(view.table_index(table) for table in wanted)


def integer(request: web.Request, name: str, default: int) -> int:
    """A query parameter that is a whole number from 0 on. Raises InvalidInput."""
    text = request.query.get(name, "")
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > DIGITS_MAX:
        raise InvalidInput(f"query parameter {name}={text[:40]}: expected a whole number from 0 on")
    return int(text)


def truth(request: web.Request, name: str) -> bool:
    """A query parameter that is a truth value as Go writes them; present without a value is true. Raises InvalidInput."""
    text = request.query.get(name)
    if text is None or text in {"0", "f", "F", "false", "FALSE", "False"}:
        return False
    if text in {"", "1", "t", "T", "true", "TRUE", "True"}:
        return True
    raise InvalidInput(f"query parameter {name}={text[:40]}: expected true or false")


def texts(body: dict[str, Any], name: str) -> tuple[str, ...]:
    """A member of the body that is a list of texts, or absent. Raises InvalidInput."""
    value = body.get(name) or []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InvalidInput(f"'{name}' in the body is {value!r:.40}; expected a list of texts")
    return tuple(value)


_UNITS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def duration(text: str, default: float) -> float:
    """Seconds in a Go duration ("1h30m", "500ms") or a bare number of nanoseconds. Raises InvalidInput."""
    if not text:
        return default
    with contextlib.suppress(ValueError):
        return int(text) / 1e9
    total, number = 0.0, ""
    rest = text
    while rest:
        number = ""
        while rest and (rest[0].isdigit() or rest[0] == "."):
            number, rest = number + rest[0], rest[1:]
        unit = next((unit for unit in ("ns", "us", "ms", "s", "m", "h") if rest.startswith(unit)), "")
        if not number or not unit:
            raise InvalidInput(f"'{text}' is not a duration; expected for example 30s, 5m or 1h30m")
        total += float(number) * _UNITS[unit]
        rest = rest[len(unit) :]
    return total


async def json_body(request: web.Request) -> dict[str, Any]:
    """The request's JSON object. Raises InvalidInput."""
    data = await request.read()
    if not data:
        return {}
    try:
        value = msgspec.json.decode(data)
    except msgspec.DecodeError as error:
        raise InvalidInput(f"the body is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidInput("the body must be a JSON object")
    return value


def one_by_prefix(found: Iterable[T], prefix: str, what: str, key: Callable[[T], str]) -> T:
    """The only item whose id begins with `prefix` (exact ids win). Raises NotFound, or InvalidInput when many do."""
    matches = []
    for item in found:
        if key(item) == prefix:
            return item
        matches.append(item)
        if len(matches) > 5:
            break
    if not matches:
        raise NotFound(f"no {what} whose id begins with '{prefix}'")
    if len(matches) > 1:
        some = ", ".join(key(item)[:13] for item in matches)
        raise InvalidInput(f"'{prefix}' fits several {what}s ({some}); give more characters")
    return matches[0]

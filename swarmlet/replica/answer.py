"""How a proposal ended, told once to whoever waits: callbacks, and futures with a timeout."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import structlog

from swarmlet.errors import SwarmletError, UnknownOutcome
from swarmlet.state.command import Applied

log = structlog.get_logger(__name__)

#: Hears how a proposal ended, once.
Answer = Callable[[Applied | SwarmletError], None]


def tell(answers: Iterable[Answer], outcome: Applied | SwarmletError) -> None:
    """Say it to all of them."""
    for answer in answers:
        try:
            answer(outcome)
        except Exception:
            # Whoever waits has a bug; the state has moved all the same, and the others hear of it.
            log.exception("replica.answer_failed")


async def settled(future: asyncio.Future[Applied], timeout_seconds: float) -> Applied:
    """The outcome, or UnknownOutcome at the timeout. A timer of the loop costs a fifth of `asyncio.timeout`."""
    timer = asyncio.get_running_loop().call_later(timeout_seconds, _expire, future)
    try:
        return await future
    finally:
        timer.cancel()


def _expire(future: asyncio.Future[Applied]) -> None:
    settle(future, UnknownOutcome("no quorum acknowledged the command in time; it may still take effect"))


def settle(future: asyncio.Future[Applied], outcome: Applied | SwarmletError) -> None:
    """An `Answer` that a future keeps; what comes after the first is nobody's."""
    if future.done():
        return
    if isinstance(outcome, Applied):
        future.set_result(outcome)
    else:
        future.set_exception(outcome.with_traceback(None))


def retrieve(future: asyncio.Future[Applied]) -> None:
    """Nobody is warned of a failure that nobody waited for: its caller was cancelled."""
    if not future.cancelled():
        future.exception()

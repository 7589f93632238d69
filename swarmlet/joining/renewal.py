"""A node's certificate is renewed by its agent, long before it ends; and after it ended, if the agent was away."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence

import structlog

from swarmlet.errors import SwarmletError, Unavailable
from swarmlet.joining.client import renew
from swarmlet.joining.identity import Identity
from swarmlet.security.certificate import load_certificate
from swarmlet.transport.peer import Address

log = structlog.get_logger(__name__)

#: The wall clock may be set while the agent sleeps: it looks again this often, and never renews more often.
CHECK_SECONDS = 3600.0
#: After a failure; doubled up to the maximum. Short at first: an agent that starts with an ended certificate
#: knows nobody yet, and is cut off until it is renewed.
RETRY_SECONDS = 2.0
RETRY_SECONDS_MAX = 3600.0
#: Nodes asked per try: one that answers is enough, and a cluster that answers nowhere is asked again later.
TARGETS_MAX = 5

Ask = Callable[[Address, Identity], Awaitable[Identity]]


class Renewal:
    """Renews one identity for as long as `run()` runs."""

    def __init__(
        self,
        identity: Identity,
        *,
        targets: Callable[[], Sequence[Address]],
        install: Callable[[Identity], None],
        now: Callable[[], float],
        rng: random.Random,
        host: str = "",
        ask: Ask | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`targets`: mesh addresses to ask, best first. `install` keeps the new identity and shows it from then on;
        `now` is wall time in seconds; `host`: where this node is reached, for the certificate.
        """
        self._identity = identity
        self._targets = targets
        self._install = install
        self._now = now
        self._rng = rng
        self._host = host
        self._ask = ask or self._ask_over_the_mesh
        self._sleep = sleep

    async def run(self) -> None:
        """Renew whenever it is time, until cancelled."""
        delay = 0.0
        while True:
            certificate = load_certificate(self._identity.certificate)
            due = certificate.renew_at() - self._now()
            if due > 0:
                await self._sleep(min(due, CHECK_SECONDS))
                continue
            try:
                await self._renew()
            except SwarmletError as error:
                delay = min(max(2 * delay, RETRY_SECONDS), RETRY_SECONDS_MAX)
                log.warning(
                    "certificate.not_renewed",
                    reason=str(error),
                    seconds_left=round(certificate.not_after - self._now()),
                )
                # Spread: a cluster whose nodes were made together renews together.
                await self._sleep(delay * self._rng.uniform(0.5, 1.0))
                continue
            delay = 0.0
            if load_certificate(self._identity.certificate).renew_at() <= self._now():
                # A certificate cut short by its CA's end is due again at once.
                await self._sleep(CHECK_SECONDS)

    async def _renew(self) -> None:
        failure: SwarmletError = Unavailable("no other node is known to renew the certificate")
        for target in list(self._targets())[:TARGETS_MAX]:
            try:
                renewed = await self._ask(target, self._identity)
            except SwarmletError as error:
                failure = error
                continue
            self._install(renewed)
            self._identity = renewed
            until = load_certificate(renewed.certificate).not_after
            log.info("certificate.renewed", valid_days=round((until - self._now()) / 86_400, 1))
            return
        raise failure

    async def _ask_over_the_mesh(self, target: Address, identity: Identity) -> Identity:
        return await renew(target, identity, host=self._host)

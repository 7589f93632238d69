"""Bugs to be found by the simulator: each changes one member's core as a plausible mistake would have.

They are patched onto an instance, so that production code holds no switch for them.
`python -m tests.simulation.gossip_bugs` prints after how many seeds each is found, and by what.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec

from swarmlet.gossip.core import Swim
from swarmlet.gossip.effect import Address, EventKind, MemberState, Send, StreamAnswer
from swarmlet.gossip.packet import Evidence, Message, Update, updates_budget
from swarmlet.gossip.view import Claim, Record, claim_of
from swarmlet.simulation.gossip_invariants import Violation
from swarmlet.simulation.gossip_scenario import run

#: Within so many seeds of a small cluster and a minute of faults each bug is found.
SEEDS = range(1, 31)
NODES = 4
SECONDS = 60.0

Bug = Callable[[Swim], Swim]
BUGS: dict[str, Bug] = {}


def bug(function: Callable[[Any], None]) -> Callable[[Any], None]:
    """Register a bug under its function's name."""

    def inject(core: Swim) -> Swim:
        function(core)
        return core

    BUGS[function.__name__] = inject
    return function


@bug
def suspicions_never_end(core: Any) -> None:
    core._accusations._dead_at = lambda node, suspicion, scale: math.inf


@bug
def accusations_are_not_refuted(core: Any) -> None:
    core._on_claim_about_me = lambda now, update: None


@bug
def refutes_without_raising_the_incarnation(core: Any) -> None:
    def restate(now: float, content: Any, accused: int) -> None:
        me = core._own()
        core._outbox.broadcast(now, core._statement(me, now))

    core._restate = restate


@bug
def raises_the_incarnation_of_others(core: Any) -> None:
    accuse = core._accusations.on_accusation

    def raised(now: float, record: Record, update: Update) -> None:
        if update.accuser == core.me:
            update = msgspec.structs.replace(update, incarnation=update.incarnation + 1)
        accuse(now, record, update)

    core._accusations.on_accusation = raised


@bug
def a_refuted_suspicion_runs_on(core: Any) -> None:
    class Sticky(dict[Any, Any]):
        def pop(self, key: Any, default: Any = None) -> Any:
            record = core._view.get(key)
            if record is not None and record.state is MemberState.ALIVE:
                return default
            return super().pop(key, default)

    core._accusations.suspicions = core._prober._suspicions = Sticky()


@bug
def a_late_alive_raises_the_dead(core: Any) -> None:
    on_update = core._on_update

    def believing(now: float, update: Update, *, synced: bool) -> None:
        record = core._view.get(update.id)
        if (
            record is not None
            and update.id != core.me
            and update.state is MemberState.ALIVE
            and update.content
        ):
            core._view.set_claim(record, claim_of(update))
            core._accusations.suspicions.pop(record.id, None)
        on_update(now, update, synced=synced)

    core._on_update = believing
    core._exchange._merge = lambda now, update: believing(now, update, synced=True)


@bug
def the_dead_are_never_tried_again(core: Any) -> None:
    core._prober.ping_the_dead = lambda now: setattr(core._prober, "next_dead_ping", now + 1.0)


@bug
def news_are_repeated_for_ever(core: Any) -> None:
    core._outbox._queue.limit = lambda members: 10**9


@bug
def a_refused_connection_is_silence(core: Any) -> None:
    on_result = core._prober.on_stream_result

    def silent(now: float, probe: int, answer: StreamAnswer) -> None:
        on_result(now, probe, StreamAnswer.ACK if answer is StreamAnswer.ACK else StreamAnswer.SILENT)

    core._prober.on_stream_result = silent


@bug
def new_metadata_is_dropped(core: Any) -> None:
    core._take_content = lambda now, record, update: None
    on_alive = core._on_alive

    def without(now: float, record: Record, update: Update) -> None:
        on_alive(now, record, msgspec.structs.replace(update, content=0, metadata=b""))

    core._on_alive = without


@bug
def packets_are_filled_beyond_their_limit(core: Any) -> None:
    def send(address: Address, messages: tuple[Message, ...], first: tuple[bytes, ...] = ()) -> None:
        outbox = core._outbox
        budget = updates_budget(core.me, messages, -500) - sum(map(len, first))
        updates = [*first, *outbox._queue.take(budget, core._view.alive)]
        plain = msgspec.msgpack.encode((1, core.me, messages, [msgspec.Raw(data) for data in updates]))
        outbox.effects.append(Send(address, core._sealer.seal(plain)))

    core._outbox.send = send


@bug
def every_update_is_an_event(core: Any) -> None:
    on_alive = core._on_alive

    def loud(now: float, record: Record, update: Update) -> None:
        on_alive(now, record, update)
        core.event(EventKind.ALIVE_AGAIN, record)

    core._on_alive = loud


@bug
def a_leaving_member_refutes_its_leave(core: Any) -> None:
    leave = core.leave

    def half_hearted(now: float) -> None:
        leave(now)
        core._restate(now, core._own().claim.content, core._own().claim.incarnation)

    core.leave = half_hearted


@bug
def who_comes_back_does_not_outbid_its_past(core: Any) -> None:
    on_claim = core._on_claim_about_me

    def trusting(now: float, update: Update) -> None:
        if update.state is not MemberState.ALIVE:
            on_claim(now, update)

    core._on_claim_about_me = trusting


@bug
def nobody_is_probed(core: Any) -> None:
    core._view.next_to_probe = lambda me, now: None


@bug
def digests_are_always_equal(core: Any) -> None:
    core._view.marks = lambda count: [0] * count


@bug
def the_dead_are_forgotten_at_once(core: Any) -> None:
    settle = core._accusations.settle

    def forgetful(now: float, record: Record, update: Update) -> None:
        settle(now, record, update)
        if record.state is MemberState.DEAD:
            core._view.remove(record.id)

    core._accusations.settle = forgetful


@bug
def the_prober_spins(core: Any) -> None:
    begin = core._prober._begin

    def eager(now: float) -> None:
        begin(now)
        core._prober.next_probe = now
        core._prober._probe = None

    core._prober._begin = eager


@bug
def the_count_of_the_living_drifts(core: Any) -> None:
    set_claim = core._view.set_claim

    def drifting(record: Record, claim: Claim) -> None:
        if claim.state is MemberState.LEFT:
            record.claim = claim
        else:
            set_claim(record, claim)

    core._view.set_claim = drifting


@bug
def one_word_makes_a_death(core: Any) -> None:
    accuse = core._accusations.on_accusation

    def hasty(now: float, record: Record, update: Update) -> None:
        accuse(now, record, update)
        if update.evidence is Evidence.PENDING and record.state is MemberState.SUSPECT:
            core._accusations.settle(now, record, core._accusations.verdict(record, MemberState.DEAD))

    core._accusations.on_accusation = hasty


@bug
def an_event_is_new_every_time(core: Any) -> None:
    events = core._outbox.events
    hear = events.hear

    def forgetful(now: float, event: Any, source: Address | None = None) -> bool:
        hear(now, event, source)
        return True

    events.hear = forgetful


@bug
def events_are_not_passed_on(core: Any) -> None:
    core._outbox.events.take = lambda budget, limit, to, others: []
    core._outbox.events.latest = tuple


@bug
def a_joiner_takes_the_next_event_for_its_past(core: Any) -> None:
    """It goes by the Lamport time that it is told, and is off by one."""
    events = core._outbox.events
    ignore = events.ignore_past
    events.ignore_past = lambda floor, past: ignore(max(floor, events.time + 1), past)


def hunt(name: str, seeds: range, nodes: int, seconds: float) -> tuple[int, str] | None:
    """The first seed that finds a bug, and what it complains of; None where none does."""
    for seed in seeds:
        try:
            run(seed, nodes, seconds, make=BUGS[name])
        except Violation as violation:
            return seed, str(violation)
    return None


def main() -> None:
    for name in sorted(BUGS):
        found = hunt(name, SEEDS, NODES, SECONDS)
        line = f"{name:<46} {found[0] if found else 'NOT':>3}  {found[1] if found else 'found'}"
        print(line, flush=True)  # noqa: T201 - the table that this prints is its purpose


if __name__ == "__main__":
    main()

"""One health check of one allocation: what its answers add up to, when to ask next, when to restart. Pure.

Readiness is `status`: passing after so many good answers in a row, failing after so many bad ones. Liveness is
`check_restart`: bad for long enough after the task's start asks for a restart. Times are wall time in ns.
"""

from __future__ import annotations

from swarmlet.model.check import Check, CheckStatus
from swarmlet.wire import Record

#: Until the first good answer after a start, a task is asked this often (or at its interval, if that is
#: shorter): a rollout waits for that answer.
SETTLING_NS = 1_000_000_000
#: What is kept of an answer: enough for an error page's first lines.
OUTPUT_BYTES_MAX = 3_072


class Answer(Record):
    """How one attempt went. `status_code`: HTTP's, 0 where there is none."""

    is_good: bool
    output: str = ""
    status_code: int = 0


class CheckMachine:
    """Feed it starts of the task and answers; it says when to ask (`next_at_ns`) and when to restart."""

    def __init__(self, check: Check) -> None:
        """Nothing runs yet."""
        self.check = check
        self.status = CheckStatus.PENDING
        self.answer: Answer | None = None
        self.answered_at_ns = 0
        #: Since when it passes without a break; None while it does not.
        self.passing_since_ns: int | None = None
        self.next_at_ns = 0
        self._begun_at_ns = 0
        self._good = self._bad = 0
        self._has_been_good = False
        self._bad_since_ns: int | None = None

    def begin(self, now_ns: int) -> None:
        """The task has started (again): what was known of its health is void."""
        self.status = CheckStatus.SUCCESS if self.check.is_passing_at_first else CheckStatus.PENDING
        self.passing_since_ns = now_ns if self.check.is_passing_at_first else None
        self.next_at_ns = self._begun_at_ns = now_ns
        self._good = self._bad = 0
        self._has_been_good = False
        self._bad_since_ns = None

    def end(self) -> None:
        """The task does not run: there is nobody to ask, and it certainly does not pass."""
        self.status = CheckStatus.PENDING
        self.passing_since_ns = None

    def on_answer(self, now_ns: int, answer: Answer) -> bool:
        """Count an answer; whether the task is to be restarted for it."""
        self.answer, self.answered_at_ns = answer, now_ns
        if answer.is_good:
            self._on_good(now_ns)
        else:
            self._on_bad(now_ns)
        wait = self.check.interval_ns
        if not self._has_been_good:
            wait = min(wait, SETTLING_NS)
        self.next_at_ns = now_ns + wait
        return not answer.is_good and self._is_restart_due(now_ns)

    def _on_good(self, now_ns: int) -> None:
        self._good, self._bad = self._good + 1, 0
        self._has_been_good = True
        self._bad_since_ns = None
        if self.status is not CheckStatus.SUCCESS and self._good >= self.check.success_before_passing:
            self.status = CheckStatus.SUCCESS
            self.passing_since_ns = now_ns

    def _on_bad(self, now_ns: int) -> None:
        self._good, self._bad = 0, self._bad + 1
        if self.status is not CheckStatus.FAILURE and self._bad >= self.check.failures_before_critical:
            self.status = CheckStatus.FAILURE
            self.passing_since_ns = None

    def _is_restart_due(self, now_ns: int) -> bool:
        """By time, as Nomad counts: `limit` bad answers at the check's interval, the first one after the grace."""
        restart = self.check.restart
        if restart.limit == 0 or now_ns < self._begun_at_ns + restart.grace_ns:
            return False
        if self._bad_since_ns is None:
            self._bad_since_ns = now_ns
        if now_ns < self._bad_since_ns + (restart.limit - 1) * self.check.interval_ns:
            return False
        # Asked for once: the restart begins a new count.
        self._bad_since_ns = None
        return True

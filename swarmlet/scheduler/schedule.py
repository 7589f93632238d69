"""One evaluation in, one plan out: reconcile, place, and say what could not be placed. Pure."""

from __future__ import annotations

from swarmlet.model.evaluation import Evaluation
from swarmlet.model.plan import Plan
from swarmlet.state.view import View


def schedule(view: View, evaluation: Evaluation, now_ns: int) -> Plan:
    """What should be done about `evaluation`, from the state in `view`. `now_ns` is wall time."""
    raise NotImplementedError

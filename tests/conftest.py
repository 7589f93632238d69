"""What all tests share: Hypothesis draws the same examples in every CI run, and new ones everywhere else."""

from __future__ import annotations

import os
import signal

from hypothesis import settings

# Without Hypothesis' time limit per example: how busy the machine is proves nothing.
settings.register_profile("any", deadline=None)
settings.register_profile("ci", derandomize=True, deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "any")

# A shell that starts the tests in the background has them ignore Ctrl-C, and all that they start; some tests press it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGQUIT) is signal.SIG_IGN:
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)

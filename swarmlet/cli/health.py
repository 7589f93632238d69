"""Why an allocation that runs is not healthy: what its checks say, asked of its node."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from typing import Any

from swarmlet.api.client import Client
from swarmlet.errors import SwarmletError

#: An allocation on a node that does not answer holds up a command for no longer.
ASK_SECONDS = 2.0
#: Allocations asked about at once: those of one version usually fail for the same reason.
ASKED_MAX = 5
#: All of them together.
TOGETHER_SECONDS = 4.0
OUTPUT_CHARS_MAX = 80
_TAG = re.compile(r"<[^<>]*>")


def failing_checks(api: Client, allocations: Iterable[dict[str, Any]]) -> dict[str, list[str]]:
    """A sentence for each check that fails on the first few `allocations` that run, and on which it does.

    `allocations` are as the API lists them. A node that does not answer says nothing of health.
    """
    until = time.monotonic() + TOGETHER_SECONDS
    found: dict[str, list[str]] = {}
    asked = 0
    for item in allocations:
        if item["ClientStatus"] != "running" or item["DesiredStatus"] != "run":
            continue
        if asked >= ASKED_MAX or time.monotonic() > until:
            break
        asked += 1
        try:
            checks = api.get(f"/v1/client/allocation/{item['ID']}/checks", timeout=ASK_SECONDS)
        except SwarmletError:
            continue
        where = f"{str(item['Name']).partition('.')[2] or item['Name']} on {item['NodeName']}"
        for check in checks.values():
            if check["Status"] == "failure":
                sentence = f"check '{check['Check']}' of service {check['Service']} fails: {answer(check)}"
                found.setdefault(sentence, []).append(where)
    return found


def answer(check: dict[str, Any]) -> str:
    """What a check was answered, in one line: the HTTP status and how the text begins."""
    text = " ".join(_TAG.sub(" ", str(check["Output"])).split())[:OUTPUT_CHARS_MAX].rstrip()
    code = f"status {check['StatusCode']}" if check["StatusCode"] else ""
    return ", ".join(part for part in (code, text) if part) or "no answer"


def is_unsettled(allocation: dict[str, Any]) -> bool:
    """Whether nobody has found it healthy yet."""
    return not (allocation.get("DeploymentStatus") or {}).get("Healthy")

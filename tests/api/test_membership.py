"""Members, round trips and metrics of a real agent."""

from __future__ import annotations

from typing import Any

from swarmlet.api.membership import STATES
from swarmlet.gossip.effect import MemberState
from tests.agents.cluster import LocalCluster, wait_until
from tests.api.conftest import Http


def test_every_state_of_a_member_has_a_word() -> None:
    assert set(STATES) == set(MemberState)


def test_members_are_told_with_state_age_health_and_round_trip(cluster: LocalCluster, http_: Http) -> None:
    def settled() -> Any:
        seen = http_.admin("GET", "/v1/swarmlet/members").json()
        others = [member for member in seen["Members"] if not member["Self"]]
        is_measured = all(member["RoundTripSeconds"] for member in others)
        return seen if is_measured and len(others) == len(cluster.nodes) - 1 else None

    seen = wait_until(settled)
    assert {member["State"] for member in seen["Members"]} == {"alive"}
    assert [member["Name"] for member in seen["Members"] if member["Self"]] == [seen["AnsweredBy"]]
    for member in seen["Members"]:
        assert member["HealthScore"] in range(8)
        assert member["Since"] > 1_600_000_000 * 10**9


def test_metrics_are_told_in_both_forms(http_: Http) -> None:
    found = http_.admin("GET", "/v1/metrics").json()
    counters = {each["Name"] for each in found["Counters"]}
    assert {"swarmlet.gossip.packets_sent", "swarmlet.gossip.suspicions"} <= counters
    text = http_.admin("GET", "/v1/metrics?format=prometheus")
    assert text.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'swarmlet_gossip_members{state="alive"}' in text.text
    assert "\nswarmlet_gossip_health_score " in text.text
    assert http_.admin("GET", "/v1/metrics?format=xml").status == 400
    assert http_.tcp("GET", "/v1/metrics").status == 403

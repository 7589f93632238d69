"""Metrics as Prometheus reads them, and as Nomad's JSON has them."""

from __future__ import annotations

import math

import pytest

from swarmlet.api.exposition import Family, Kind, Sample, single, to_json, to_prometheus

FAMILIES = [
    single("gossip_packets_sent", Kind.COUNTER, "Datagrams sent", 12),
    Family(
        "gossip_members",
        Kind.GAUGE,
        'Members, by "state"\nand more',
        (Sample(2, {"state": "alive"}), Sample(0.25, {"zone": 'a"b\\c\nd', "state": "dead"})),
    ),
]


def test_families_are_written_with_help_type_and_escaped_labels() -> None:
    assert to_prometheus(FAMILIES) == (
        "# HELP swarmlet_gossip_packets_sent_total Datagrams sent\n"
        "# TYPE swarmlet_gossip_packets_sent_total counter\n"
        "swarmlet_gossip_packets_sent_total 12\n"
        '# HELP swarmlet_gossip_members Members, by "state"\\nand more\n'
        "# TYPE swarmlet_gossip_members gauge\n"
        'swarmlet_gossip_members{state="alive"} 2\n'
        'swarmlet_gossip_members{state="dead",zone="a\\"b\\\\c\\nd"} 0.25\n'
    )


@pytest.mark.parametrize(
    ("value", "text"), [(math.inf, "+Inf"), (-math.inf, "-Inf"), (math.nan, "NaN"), (1e300, "1e+300")]
)
def test_numbers_that_are_none_are_written_as_prometheus_writes_them(value: float, text: str) -> None:
    assert to_prometheus([single("x", Kind.GAUGE, "X", value)]).endswith(f"swarmlet_x {text}\n")


def test_json_has_counters_apart_from_gauges() -> None:
    found = to_json(FAMILIES, "now")
    assert found == {
        "Timestamp": "now",
        "Counters": [{"Name": "swarmlet.gossip.packets_sent", "Labels": {}, "Count": 12, "Sum": 12}],
        "Gauges": [
            {"Name": "swarmlet.gossip.members", "Labels": {"state": "alive"}, "Value": 2},
            {
                "Name": "swarmlet.gossip.members",
                "Labels": {"zone": 'a"b\\c\nd', "state": "dead"},
                "Value": 0.25,
            },
        ],
        "Points": [],
        "Samples": [],
    }

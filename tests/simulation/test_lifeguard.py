"""The comparison's own tests, on small clusters: that it counts what it says, adds up, and tells the cases apart."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from swarmlet.gossip.config import GossipConfig
from swarmlet.simulation import lifeguard
from swarmlet.simulation.gossip_scale import measure_spread
from swarmlet.simulation.lifeguard import CASES, Cell, Tally, measure_detection, measure_stall, run_cell

ROOT = Path(__file__).resolve().parent.parent.parent
BAD = Cell(6, 16384, 64)


def test_the_grid_is_the_papers() -> None:
    assert len(lifeguard.grid()) == 9 * 6 * 8
    assert set(lifeguard.SUBSET) <= set(lifeguard.grid())


def test_shards_add_up() -> None:
    total = Tally()
    for number in (1, 2):
        total.add(Tally(false_positives=number, messages=10, virtual_seconds=1.5, runs=1))
    assert total == Tally(false_positives=3, messages=20, virtual_seconds=3.0, runs=2)


@pytest.mark.slow
def test_swim_takes_the_healthy_for_dead_where_lifeguard_and_ours_do_not() -> None:
    swim, whole, ours = (
        run_cell(case, BAD, seed=1, members=24, seconds=40.0) for case in ("swim", "lifeguard", "ours")
    )
    assert swim.false_positives > 50
    assert whole.false_positives * 50 <= swim.false_positives
    assert ours.false_positives * 50 <= swim.false_positives
    assert swim.healthy_false_positives <= swim.false_positives


@pytest.mark.slow
def test_a_seed_gives_the_same_figures_again() -> None:
    one, other = (run_cell("lifeguard", BAD, seed=3, members=16, seconds=20.0) for _ in range(2))
    assert one == other


def test_the_components_differ_in_what_the_paper_switches_and_nothing_else() -> None:
    plain = msgspec.to_builtins(CASES["swim"])
    switched = {
        case: {key for key, value in msgspec.to_builtins(CASES[case]).items() if value != plain[key]}
        for case in ("lha_probe", "lha_suspicion", "buddy", "lifeguard")
    }
    assert switched["lha_probe"] == {"health_score_max"}
    assert switched["lha_suspicion"] == {"suspicion_factor_max", "confirmations"}
    assert switched["buddy"] == {"buddy"}
    assert switched["lifeguard"] == set().union(*(switched[case] for case in list(switched)[:3]))


def test_the_protocols_that_are_compared_say_nothing_that_only_this_one_says() -> None:
    for case in set(CASES) - {"ours"}:
        config = CASES[case]
        assert (config.evidence, config.path_reports, config.stream_check_interval) == (False, False, 0.0)


@pytest.mark.slow
def test_anomalies_bring_no_storm_of_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = msgspec.structs.replace(CASES["ours"], path_reports=False)
    monkeypatch.setitem(CASES, "quiet", quiet)
    cell = Cell(8, 512, 256)
    ours, silent = (run_cell(case, cell, seed=1, members=24, seconds=30.0) for case in ("ours", "quiet"))
    assert ours.messages <= 1.1 * silent.messages


def test_what_ships_is_what_is_compared() -> None:
    assert CASES["ours"] == GossipConfig(cluster_id="simulated")


@pytest.mark.slow
def test_a_death_is_known_first_by_one_then_by_all() -> None:
    for found in measure_detection(CASES["ours"], 8, seed=1, deaths=2):
        assert 0 < found.first <= found.full < lifeguard.DETECTION_SECONDS_MAX


@pytest.mark.slow
def test_a_stall_under_a_living_kernel_is_noticed_and_kills_nobody() -> None:
    stall = measure_stall(CASES["ours"], 8, seconds=20.0, seed=1)
    assert (stall.deaths, stall.suspected, stall.agent_down) == (0, True, True)


@pytest.mark.slow
def test_news_reach_all_and_idling_costs_two_probes_a_second() -> None:
    found = measure_spread(GossipConfig(cluster_id="simulated"), 20, seed=1)
    assert max(found.join, found.metadata, found.death_spread) < 2.0
    assert 3.5 < found.idle_packets < 4.5


@pytest.mark.slow
def test_a_run_that_is_kept_is_not_repeated(tmp_path: Path) -> None:
    results = tmp_path / "runs.jsonl"
    runs: list[dict[str, object]] = [
        {
            "case": case,
            "cell": msgspec.to_builtins(cell),
            "seed": 1,
            "tally": {"false_positives": positives, "messages": 100},
        }
        for cell in lifeguard.SUBSET
        for case, positives in (("swim", 100), ("lifeguard", 1))
    ]
    runs += [
        {"case": case, "seed": 1, "detections": [{"first": 1.0, "full": 2.0}]}
        for case in ("swim", "lifeguard")
    ]
    lines = [json.dumps(run) + "\n" for run in runs]
    results.write_text("".join(lines))
    command = [sys.executable, "scripts/bench_gossip.py", "--lifeguard", "--results", str(results)]
    command += ["--case", "swim", "--case", "lifeguard", "--detections", "1", "--stalls", "0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [row] = [line for line in done.stdout.splitlines() if line.startswith("lifeguard")]
    assert row.split()[1:4] == [str(len(lifeguard.SUBSET)), "0", "1.00"]
    assert results.read_text() == "".join(lines)


@pytest.mark.slow
def test_shards_of_a_small_grid_add_up_to_the_whole(tmp_path: Path) -> None:
    command = [sys.executable, "scripts/bench_gossip.py", "--lifeguard", "--size", "12", "--stalls", "0"]
    command += ["--anomaly-seconds", "2", "--case", "swim", "--case", "lifeguard", "--detections", "0"]
    command += ["--sample", "6"]

    def table(results: Path, *more: str) -> list[str]:
        done = subprocess.run(
            [*command, "--results", str(results), *more], cwd=ROOT, capture_output=True, text=True, check=True
        )
        return [line for line in done.stdout.splitlines() if line.startswith(("swim", "lifeguard"))]

    whole = table(tmp_path / "whole.jsonl")
    parts = [tmp_path / f"part{number}.jsonl" for number in (1, 2, 3)]
    for number, part in enumerate(parts, 1):
        table(part, "--shard", f"{number}/3")
    kept = [part.read_text() for part in parts]
    assert [part.count("\n") for part in kept] == [4, 4, 4]
    joined = tmp_path / "joined.jsonl"
    joined.write_text("".join(kept))
    assert table(joined) == whole
    assert len(whole) == 2
    assert joined.read_text() == "".join(kept)

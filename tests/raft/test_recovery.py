"""Recovery from the loss of a quorum: offline, explicit, from one survivor's log."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarmlet.errors import Conflict
from swarmlet.ids import PeerId
from swarmlet.raft.bootstrap import bootstrap
from swarmlet.raft.disk_log import DiskLog
from swarmlet.raft.message import ConfigState
from swarmlet.raft.ready import Role
from swarmlet.raft.recovery import configuration_at_end, recover
from tests.raft.cluster import Cluster
from tests.raft.test_core import change


def survivor_leads(cluster: Cluster, number: int) -> None:
    """The other peers stay away; the survivor starts from its recovered log."""
    for peer in cluster.peers.values():
        peer.is_down = True
    cluster.restart(number)
    cluster.run(20)
    assert cluster[number].core.role is Role.LEADER
    assert cluster[number].config == ConfigState(voters=(PeerId(number),))


def test_a_survivor_of_three_leads_alone_with_everything_it_had() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster[1].core.propose(b"acknowledged")
    cluster.settle()
    done = recover(cluster[2].log, PeerId(2))
    assert (done.before.voters, done.after.voters) == ((1, 2, 3), (2,))
    survivor_leads(cluster, 2)
    cluster[2].core.propose(b"and on")
    cluster.settle()
    assert cluster.data(2) == [b"acknowledged", b"and on"]


def test_what_was_not_known_to_be_committed_is_kept_and_counted() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.partition((1,), (2,), (3,))
    cluster[1].core.propose(b"unknown")
    cluster.settle()
    done = recover(cluster[1].log, PeerId(1))
    assert done.entries_kept == 1
    survivor_leads(cluster, 1)
    assert cluster.data(1) == [b"unknown"]


def test_a_learner_can_be_the_survivor() -> None:
    cluster = Cluster(4, voters=(1, 2, 3))
    cluster.elect(1)
    change(cluster, "l4")
    cluster.run(5)
    recover(cluster[4].log, PeerId(4))
    survivor_leads(cluster, 4)


def test_a_joint_configuration_is_left_first() -> None:
    cluster = Cluster(4, voters=(1, 2, 3))
    cluster.elect(1)
    cluster.partition((1, 2, 3), (4,))
    change(cluster, "v4 r3")
    cluster.run(3)
    assert recover(cluster[2].log, PeerId(2)).after.voters == (2,)
    survivor_leads(cluster, 2)


def test_a_stranger_cannot_recover_a_cluster() -> None:
    cluster = Cluster(3)
    with pytest.raises(Conflict, match="no member"):
        recover(cluster[1].log, PeerId(9))


def test_recovery_on_disk_survives_reopening(tmp_path: Path) -> None:
    log = DiskLog.open(str(tmp_path / "raft"), "c")
    bootstrap(log, (PeerId(1), PeerId(2), PeerId(3)))
    done = recover(log, PeerId(3))
    log.close()
    again = DiskLog.open(str(tmp_path / "raft"), "c")
    assert configuration_at_end(again) == ConfigState(voters=(PeerId(3),))
    assert again.hard_state().commit == done.last_index == again.last_index() == 3
    again.close()

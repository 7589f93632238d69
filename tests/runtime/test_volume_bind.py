"""Which directories a task sees."""

from __future__ import annotations

import msgspec
import pytest

from swarmlet.errors import DriverError
from swarmlet.model.job import Task, TaskGroup, VolumeMount, VolumeRequest
from swarmlet.model.node import HostVolumeInfo
from swarmlet.runtime.drivers.driver import VolumeBind
from swarmlet.runtime.volume_bind import volume_binds
from tests.runtime.world import NODE, allocation_of, fake_task, job_of

OFFERED = msgspec.structs.replace(
    NODE,
    host_volumes={
        "srv": HostVolumeInfo(path="/srv"),
        "fixed": HostVolumeInfo(path="/fixed", is_read_only=True),
    },
)
MADE = {"default/data[3]": HostVolumeInfo(path="/v/3"), "other/db": HostVolumeInfo(path="/v/other")}


def binds(*requests: VolumeRequest, mounts: tuple[VolumeMount, ...] = (), index: int = 3) -> list[VolumeBind]:
    chosen = mounts or tuple(VolumeMount(volume=each.name, destination="/d") for each in requests)
    task: Task = fake_task(volume_mounts=chosen)
    job = job_of(task, volumes=requests)
    group: TaskGroup = job.groups[0]
    return list(volume_binds(task, group, allocation_of(job, index), OFFERED, MADE))


def test_a_volume_of_the_configuration_is_bound_as_it_is_offered() -> None:
    assert binds(VolumeRequest(name="a", source="srv")) == [VolumeBind(source="/srv", destination="/d")]
    assert binds(VolumeRequest(name="a", source="fixed"))[0].is_read_only


def test_each_allocation_gets_its_own_of_its_namespace() -> None:
    own = VolumeRequest(name="a", source="data", is_per_alloc=True)
    assert binds(own) == [VolumeBind(source="/v/3", destination="/d")]
    with pytest.raises(DriverError, match=r"no volume 'data\[4\]' on this node"):
        binds(own, index=4)
    with pytest.raises(DriverError, match="no volume 'db'"):
        binds(VolumeRequest(name="a", source="db"))


@pytest.mark.parametrize(("of_group", "of_mount"), [(True, False), (False, True)])
def test_reading_only_is_kept_wherever_it_is_said(of_group: bool, of_mount: bool) -> None:
    request = VolumeRequest(name="a", source="srv", is_read_only=of_group)
    mount = VolumeMount(volume="a", destination="/d", is_read_only=of_mount)
    assert binds(request, mounts=(mount,))[0].is_read_only

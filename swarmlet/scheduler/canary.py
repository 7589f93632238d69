"""A new version tried on canaries: some of it run beside the older allocations, which go on as they are. Pure.

Until the canaries are promoted nothing older is stopped for the new version, and what is lost or fails of an older one
is replaced by the same version. After that they are allocations like any other (`group`). A deployment that fails
before leaves the older ones alone: its canaries stop.
"""

from __future__ import annotations

import dataclasses
from collections import Counter

import msgspec

from swarmlet.model.allocation import Allocation, Canary, ClientStatus
from swarmlet.model.deployment import DeploymentStatus
from swarmlet.scheduler.definition import Difference
from swarmlet.scheduler.group import Group, lost_if_gone, was_healthy
from swarmlet.scheduler.request import PlaceRequest

#: Of a canary that nobody stopped: it is no good.
ENDED_BY_ITSELF = frozenset({ClientStatus.FAILED, ClientStatus.COMPLETE})
_TRIED = frozenset({DeploymentStatus.RUNNING, DeploymentStatus.PAUSED, DeploymentStatus.FAILED})


def look_at_all(group: Group, allocations: list[Allocation], *, is_going_back: bool = False) -> None:
    """Decide about a group's allocations; where its version is tried, about canaries and the others apart.

    `is_going_back`: the version is an older one again, and is not tried.
    """
    canaries = [each for each in allocations if each.canary is Canary.TRIED]
    others = [each for each in allocations if each.canary is not Canary.TRIED] if canaries else allocations
    if not is_going_back and _is_tried(group, others):
        _Trial(group, canaries, others).look_at_all()
        return
    _stop(group, canaries, f"canaries are not wanted in version {group.job.version}")
    group.look_at_all(others)


def _is_tried(group: Group, others: list[Allocation]) -> bool:
    """Whether canaries are wanted that are not promoted: by the version's deployment, else by what it would replace."""
    if group.deployment is not None:
        state = group.deployment.groups.get(group.group.name)
        return state is not None and state.is_trying and group.deployment.status in _TRIED
    if group.strategy is None or not group.strategy.canaries_of(group.group.count):
        return False
    return any(not each.is_terminal() and _is_older(group, each) for each in others)


def _stop(group: Group, canaries: list[Allocation], why: str) -> None:
    """Also those that have ended: nothing comes in their place."""
    for each in canaries:
        if not each.is_server_terminal():
            group.result.stop(each, why, lost_if_gone(group.view, each))


def _is_older(group: Group, allocation: Allocation) -> bool:
    return group.difference(allocation) is Difference.DESTRUCTIVE


class _Trial:
    """One group while its version is tried."""

    def __init__(self, group: Group, canaries: list[Allocation], others: list[Allocation]) -> None:
        self.group, self.canaries = group, canaries
        self.count = group.group.count
        self.by_index: dict[int, list[Allocation]] = {}
        for each in others:
            self.by_index.setdefault(each.index, []).append(each)
        #: Version -> the group as that version has it.
        self._older: dict[int, _Older | None] = {}
        wanted = [each for each in others if not each.is_server_terminal() and _is_older(group, each)]
        live = [each for each in wanted if not each.is_client_terminal()]
        versions = Counter(each.job_version for each in live or wanted)
        #: What is placed where nothing was.
        self._usual = max(versions, key=lambda version: (versions[version], version), default=None)

    def look_at_all(self) -> None:
        """First what runs already, then the canaries beside it."""
        older = [index for index in range(self.count) if self._look_at(index, self.by_index.pop(index, []))]
        for index in sorted(self.by_index):
            self.group.stop_all(self.by_index[index], f"count is now {self.count}")
        deployment, strategy = self.group.deployment, self.group.strategy
        version = self.group.job.version
        if deployment is not None and deployment.status is DeploymentStatus.FAILED:
            _stop(self.group, self.canaries, f"the deployment of version {version} failed")
            self.group.say_held_back()
            return
        if deployment is not None:
            self.group.canaries = deployment.groups[self.group.group.name].desired_canaries
        elif strategy is not None:
            self.group.canaries = min(strategy.canaries_of(self.count), len(older))
        if deployment is not None and deployment.status is DeploymentStatus.PAUSED:
            self.group.say_held_back()
        else:
            self._say_tried()
        _Canaries(self.group).look_at_canaries(self.canaries, older)

    def _say_tried(self) -> None:
        number = self.group.canaries
        called = f"{number} canary" if number == 1 else f"{number} canaries"
        self.group.result.wait(
            self.group.group.name,
            f"version {self.group.job.version} is tried on {called}: the others stay until that is promoted",
        )

    def _look_at(self, index: int, everything: list[Allocation]) -> bool:
        """Let what has the index go on; whether that is an older version's."""
        wanted = [each for each in everything if not each.is_server_terminal()]
        live = [each for each in wanted if not each.is_client_terminal()]
        holder = max(live or wanted, key=lambda each: each.create_index, default=None)
        if holder is not None and not _is_older(self.group, holder):
            self.group.look_at(index, everything)
            return False
        older = self._version(holder.job_version if holder is not None else self._usual)
        older = older or self._version(self._usual)
        if older is None:
            self.group.look_at(index, everything)
            return False
        older.look_at(index, everything)
        return True

    def _version(self, version: int | None) -> _Older | None:
        """The group in that version; None: it is not kept."""
        if version is None:
            return None
        if version not in self._older:
            job = self.group.view.job_version(self.group.job.namespace, self.group.job.id, version)
            has_group = job is not None and job.group(self.group.group.name) is not None
            self._older[version] = _Older(self.group, version) if has_group else None
        return self._older[version]


class _Older(Group):
    """A group as an older version has it: whatever runs of older versions is good as it is."""

    def __init__(self, newer: Group, version: int) -> None:
        job = newer.view.job_version(newer.job.namespace, newer.job.id, version)
        assert job is not None, "it was looked up a moment ago"
        group = job.group(newer.group.name)
        assert group is not None
        group = msgspec.structs.replace(group, count=newer.group.count)
        super().__init__(newer.view, job, group, None, newer.now_ns, newer.result)
        self._newer = newer

    def difference(self, allocation: Allocation) -> Difference:
        """None that matters: nothing is rolled out here."""
        return Difference.NONE

    def _carry_over(self, keeper: Allocation) -> None:
        """It stays what it is."""

    def _request(self, request: PlaceRequest) -> None:
        self._newer.requests.append(dataclasses.replace(request, version=self.job.version))


class _Canaries(Group):
    """The canaries of a group: each in the place of an older allocation, beside it."""

    def __init__(self, group: Group) -> None:
        super().__init__(group.view, group.job, group.group, group.deployment, group.now_ns, group.result)
        self._whole = group

    def look_at_canaries(self, canaries: list[Allocation], older: list[int]) -> None:
        """As many as are wanted, where `older` indexes are; the rest stops."""
        by_index: dict[int, list[Allocation]] = {}
        for each in canaries:
            if self.difference(each) is Difference.DESTRUCTIVE:
                _stop(self, [each], f"canary of version {each.job_version}, which is not the newest any more")
            else:
                by_index.setdefault(each.index, []).append(each)
        held = [
            index
            for index in sorted(by_index)
            if index < self.group.count and not all(each.is_server_terminal() for each in by_index[index])
        ]
        free = [index for index in (*older, *range(self.group.count)) if index not in set(held)]
        indexes = (held + list(dict.fromkeys(free)))[: self._whole.canaries]
        for index in sorted(indexes):
            self.look_at(index, by_index.pop(index, []))
        for index in sorted(by_index):
            _stop(self, by_index[index], "no canary is wanted in its place any more")
        self._whole.in_place += self.in_place

    def _request(self, request: PlaceRequest) -> None:
        is_paused = self.deployment is not None and self.deployment.status is DeploymentStatus.PAUSED
        if not is_paused or was_healthy(request.previous, self.job.version):
            self._whole.requests.append(dataclasses.replace(request, is_canary=True))

    def _fill(
        self,
        index: int,
        everything: list[Allocation],
        wanted: list[Allocation],
        lost: list[Allocation],
    ) -> None:
        """One that failed, or ended, is not tried again: it is what canaries are for."""
        if any(
            each.client_status in ENDED_BY_ITSELF
            and each.job_version == self.job.version
            and not each.transition.reschedule
            for each in wanted
        ):
            self.result.wait(self.group.name, f"canary {self._name(index)} has ended")
            return
        super()._fill(index, everything, wanted, lost)

"""Variables and their keyring in the replicated state: compare-and-set, bounds, bookkeeping."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from swarmlet.errors import InvalidInput
from swarmlet.ids import Namespace
from swarmlet.model.variable import VariableKey, check_items, check_path, may_read
from swarmlet.state import apply_variables
from swarmlet.state import command as commands
from swarmlet.state.apply import StateMachine
from swarmlet.state.command import Applied
from swarmlet.state.view import Change, Table
from tests.state.replica import DEFAULT, Replica


@pytest.fixture
def replica() -> Replica:
    made = Replica()
    made.ok(commands.AddVariableKey(key=VariableKey(id=1, sealed=b"k1")))
    return made


def put(
    replica: Replica, path: str, sealed: bytes = b"x", *, check: int | None = None, key: int = 1
) -> Applied:
    body = commands.PutVariable(namespace=DEFAULT, path=path, key_id=key, sealed=sealed, check_index=check)
    return replica.do(body, actor="admin")


def delete(replica: Replica, path: str, check: int | None = None) -> Applied:
    return replica.do(commands.DeleteVariable(namespace=DEFAULT, path=path, check_index=check))


def test_a_variable_keeps_its_creation_and_moves_its_index(replica: Replica) -> None:
    first = put(replica, "a/b", b"one")
    created_ns = replica.now_ns
    second = put(replica, "a/b", b"two")
    found = replica.state.variable(DEFAULT, "a/b")
    assert found is not None
    assert (found.sealed, found.create_index, found.modify_index) == (b"two", first.index, second.index)
    assert (found.create_time_ns, found.modify_time_ns) == (created_ns, replica.now_ns)
    assert replica.changes == (Change(Table.VARIABLES, "default/a/b", ("variable:default/a/b",)),)
    assert replica.state.table_index(Table.VARIABLES) == second.index


def test_compare_and_set_lets_one_of_two_writers_win(replica: Replica) -> None:
    made = put(replica, "a", check=0)
    assert not made.error
    assert put(replica, "a", check=0).error == "Conflict"
    assert not put(replica, "a", b"two", check=made.index).error
    lost = put(replica, "a", b"three", check=made.index)
    assert lost.error == "Conflict"
    assert f"is at index {made.index + 2}" in lost.message
    found = replica.state.variable(DEFAULT, "a")
    assert found is not None
    assert found.sealed == b"two"


def test_deleting_is_compared_too_and_twice_is_no_error(replica: Replica) -> None:
    made = put(replica, "a")
    assert delete(replica, "a", check=made.index + 1).error == "Conflict"
    assert not delete(replica, "a", check=made.index).error
    assert not delete(replica, "a").error
    assert delete(replica, "a", check=made.index).error == "Conflict"
    assert replica.state.variable(DEFAULT, "a") is None
    assert replica.state.variable_bytes == 0


@pytest.mark.parametrize(
    ("act", "error"),
    [
        (lambda r: put(r, "nomad/other"), "InvalidInput"),
        (lambda r: put(r, "a//b"), "InvalidInput"),
        (lambda r: put(r, "a", key=7), "Conflict"),
        (lambda r: put(r, "a", b"x" * (apply_variables.SEALED_BYTES_MAX + 1)), "InvalidInput"),
        (
            lambda r: r.do(
                commands.PutVariable(namespace=Namespace("none"), path="a", key_id=1, sealed=b"x")
            ),
            "NotFound",
        ),
        (lambda r: r.do(commands.AddVariableKey(key=VariableKey(id=1, sealed=b""))), "Conflict"),
        (lambda r: r.do(commands.AddVariableKey(key=VariableKey(id=3, sealed=b""))), "Conflict"),
        (lambda r: r.do(commands.RemoveVariableKey(key_id=1)), "Conflict"),
        (lambda r: r.do(commands.RemoveVariableKey(key_id=9)), "NotFound"),
    ],
)
def test_what_does_not_fit_is_refused(
    replica: Replica, act: Callable[[Replica], Applied], error: str
) -> None:
    before = list(replica.state.variables())
    assert act(replica).error == error
    assert list(replica.state.variables()) == before


def test_the_number_and_bytes_of_variables_are_bounded(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apply_variables, "VARIABLES_MAX", 2)
    monkeypatch.setattr(apply_variables, "VARIABLE_BYTES_MAX", 10)
    assert not put(replica, "a", b"12345").error
    assert put(replica, "b", b"123456").error == "Overloaded"
    assert not put(replica, "b", b"12345").error
    assert put(replica, "c", b"").error == "Overloaded"
    assert not put(replica, "a", b"1").error
    assert replica.state.variable_bytes == 6


def test_lists_are_by_path_within_a_namespace(replica: Replica) -> None:
    replica.ok(commands.UpsertNamespace(name=Namespace("b")))
    for path in ("z", "jobs/b", "jobs/a", "jobsx"):
        assert not put(replica, path).error
    body = commands.PutVariable(namespace=Namespace("b"), path="jobs/c", key_id=1, sealed=b"x")
    replica.ok(body)
    state = replica.state
    assert [row.path for row in state.variables(DEFAULT, "jobs/")] == ["jobs/a", "jobs/b"]
    assert [row.path for row in state.variables(None, "jobs")] == ["jobs/c", "jobs/a", "jobs/b", "jobsx"]
    assert replica.do(commands.DeleteNamespace(name=Namespace("b"))).error == "Conflict"


def test_a_key_goes_once_nothing_is_sealed_under_it(replica: Replica) -> None:
    put(replica, "a")
    b = put(replica, "b")
    replica.ok(commands.AddVariableKey(key=VariableKey(id=2, sealed=b"k2")))
    assert replica.do(commands.RemoveVariableKey(key_id=1)).error == "Conflict"
    a = put(replica, "a", key=2)
    assert (replica.state.variable_key_uses(1), replica.state.variable_key_uses(2)) == (1, 1)
    resealed = [
        commands.ResealedVariable(namespace=DEFAULT, path=path, key_id=2, sealed=b"new", modify_index=index)
        # Written since: the write has won.
        for path, index in (("a", a.index - 1), ("b", b.index), ("none", 3))
    ]
    replica.ok(commands.ResealVariables(variables=tuple(resealed)))
    rows = {row.path: row for row in replica.state.variables()}
    assert (rows["a"].sealed, rows["a"].modify_index) == (b"x", a.index)
    assert (rows["b"].sealed, rows["b"].key_id, rows["b"].modify_index) == (b"new", 2, b.index)
    replica.ok(commands.RemoveVariableKey(key_id=1))
    assert [key.id for key in replica.state.variable_keys()] == [2]


def test_saved_and_loaded_is_the_same(replica: Replica) -> None:
    for path in ("a", "b/c"):
        put(replica, path, b"sealed")
    replica.ok(commands.AddVariableKey(key=VariableKey(id=2, sealed=b"k2")))
    loaded = StateMachine.load(replica.machine.save())
    assert loaded.digest() == replica.machine.digest()
    state = loaded.snapshot()
    assert list(state.variables()) == list(replica.state.variables())
    assert (state.variable_key_uses(1), state.variable_bytes, state.newest_variable_key()) == (2, 12, 2)


@pytest.mark.parametrize(
    "path", ["a", "nomad/jobs", "nomad/jobs/x", "a-b_c~d/E/9", "a" * 128, "a.b", "nomad/jobs/x.y"]
)
def test_paths_that_may_be(path: str) -> None:
    check_path(path)


@pytest.mark.parametrize(
    "path", ["", "/a", "a/", "a//b", "a b", "a/./b", "..", "ä", "nomad", "nomad/x", "a" * 129, "a\n", "../a"]
)
def test_paths_that_may_not_be(path: str) -> None:
    with pytest.raises(InvalidInput):
        check_path(path)


@pytest.mark.parametrize("items", [{}, {"": "v"}, {"k" * 129: "v"}, {"k": "v" * 65536}])
def test_items_that_may_not_be_are_refused_without_their_values(items: dict[str, str]) -> None:
    with pytest.raises(InvalidInput) as raised:
        check_items(items)
    assert "vvv" not in str(raised.value)


@pytest.mark.parametrize(
    ("path", "is_allowed"),
    [
        ("nomad/jobs", True),
        ("nomad/jobs/j", True),
        ("nomad/jobs/j/g", True),
        ("nomad/jobs/j/g/t", True),
        ("nomad/jobs/j/runtime", True),
        ("nomad/jobs/j/runtime/deep", True),
        ("nomad/jobs/j/g/shared", True),
        ("nomad/jobs/j/g/t/deep", True),
        ("nomad/jobs/j/g2", False),
        ("nomad/jobs/j/g2/t", False),
        ("nomad/jobs/j/g/t2", False),
        ("nomad/jobs/j2", False),
        ("nomad/jobs/j2/g", False),
        ("other", False),
        ("nomad", False),
    ],
)
def test_a_task_reads_its_jobs_variables_but_not_another_groups_or_tasks(path: str, is_allowed: bool) -> None:
    assert may_read(path, "j", "g", "t", groups=("g", "g2"), tasks=("t", "t2")) is is_allowed

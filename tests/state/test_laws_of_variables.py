"""Whatever is written, deleted, rotated, in whatever order: a plain dictionary says what must be there."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from swarmlet.model.variable import Variable, VariableKey
from swarmlet.state import command as commands
from swarmlet.state.apply import StateMachine
from swarmlet.state.view import Table
from tests.state.replica import DEFAULT, Replica

PATHS = ("a", "a/b", "nomad/jobs", "nomad/jobs/j", "nomad/jobs/j/g", "z")
paths = st.sampled_from(PATHS)
values = st.binary(max_size=8)


class LawsOfVariables(RuleBasedStateMachine):
    """Random commands against one state machine and a dictionary: path -> (key, sealed, create and modify index)."""

    def __init__(self) -> None:
        super().__init__()
        self.replica = Replica()
        self.replica.ok(commands.AddVariableKey(key=VariableKey(id=1, sealed=b"1")))
        self.keys = [1]
        self.model: dict[str, tuple[int, bytes, int, int]] = {}

    def index_of(self, path: str) -> int:
        return self.model[path][3] if path in self.model else 0

    @rule(path=paths, sealed=values, old_key=st.booleans(), check=st.sampled_from([None, 0, "now", 1]))
    def put(self, path: str, sealed: bytes, old_key: bool, check: int | str | None) -> None:
        key = self.keys[0] if old_key else self.keys[-1]
        wanted = self.index_of(path) if check == "now" else check
        assert wanted is None or isinstance(wanted, int)
        applied = self.replica.do(
            commands.PutVariable(namespace=DEFAULT, path=path, key_id=key, sealed=sealed, check_index=wanted)
        )
        if wanted is not None and wanted != self.index_of(path):
            assert applied.error == "Conflict"
            return
        assert not applied.error
        created = self.model[path][2] if path in self.model else applied.index
        self.model[path] = (key, sealed, created, applied.index)

    @rule(path=paths, is_checked=st.booleans())
    def delete(self, path: str, is_checked: bool) -> None:
        wanted = self.index_of(path) if is_checked else None
        self.replica.ok(commands.DeleteVariable(namespace=DEFAULT, path=path, check_index=wanted))
        self.model.pop(path, None)

    @rule()
    def rotate(self) -> None:
        self.keys.append(self.keys[-1] + 1)
        self.replica.ok(commands.AddVariableKey(key=VariableKey(id=self.keys[-1], sealed=b"k")))

    @rule(chosen=st.sets(paths), is_late=st.booleans())
    def reseal(self, chosen: set[str], is_late: bool) -> None:
        before = self.replica.state.table_index(Table.VARIABLES)
        resealed = [
            commands.ResealedVariable(
                namespace=DEFAULT,
                path=path,
                key_id=self.keys[-1],
                sealed=b"anew",
                modify_index=self.index_of(path) - is_late,
            )
            for path in sorted(chosen)
        ]
        self.replica.ok(commands.ResealVariables(variables=tuple(resealed)))
        for path in sorted(chosen & set(self.model)):
            if not is_late:
                _, _, created, modified = self.model[path]
                self.model[path] = (self.keys[-1], b"anew", created, modified)
        # Nobody who waits for a change is woken by it.
        assert self.replica.state.table_index(Table.VARIABLES) == before

    @rule()
    def remove_the_oldest_key(self) -> None:
        oldest = self.keys[0]
        is_used = any(key == oldest for key, *_ in self.model.values())
        applied = self.replica.do(commands.RemoveVariableKey(key_id=oldest))
        if is_used or len(self.keys) == 1:
            assert applied.error == "Conflict"
        else:
            assert not applied.error
            self.keys.pop(0)

    @rule()
    def save_and_load(self) -> None:
        self.replica.machine = StateMachine.load(self.replica.machine.save())

    @invariant()
    def what_is_there_is_what_was_written(self) -> None:
        state = self.replica.state
        rows = list(state.variables(DEFAULT))
        assert [row.path for row in rows] == sorted(self.model)
        assert {row.path: facts(row) for row in rows} == self.model
        assert all(state.variable(DEFAULT, row.path) == row for row in rows)
        below = [row.path for row in state.variables(DEFAULT, "nomad/jobs/j")]
        assert below == [path for path in sorted(self.model) if path.startswith("nomad/jobs/j")]

    @invariant()
    def what_is_counted_is_what_is_there(self) -> None:
        state = self.replica.state
        counted = Counter(key for key, *_ in self.model.values())
        assert [state.variable_key_uses(key) for key in self.keys] == [counted[key] for key in self.keys]
        assert state.variable_count() == len(self.model)
        assert state.variable_bytes == sum(len(sealed) for _, sealed, *_ in self.model.values())
        assert [key.id for key in state.variable_keys()] == self.keys
        assert state.newest_variable_key() == self.keys[-1]


def facts(row: Variable) -> tuple[int, bytes, int, int]:
    return row.key_id, row.sealed, row.create_index, row.modify_index


LawsOfVariables.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
TestLawsOfVariables = pytest.mark.slow(LawsOfVariables.TestCase)

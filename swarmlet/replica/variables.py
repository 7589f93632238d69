"""The variables as this node serves them: sealed here before they are proposed, opened here when they are read.

The node that accepts a write seals it, so that neither the log, nor another node's mesh, nor the leader's queue
ever carries a value. Every node holds the cluster key, thus the keyring, thus can open what its own callers may
read; who may read what is decided by the callers of this module.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from swarmlet.errors import Conflict, Unavailable
from swarmlet.ids import Namespace, RequestId
from swarmlet.model.variable import Variable, check_items, check_path
from swarmlet.replica.replica import Replica
from swarmlet.security.keyring import SALT_BYTES, VariableKeyring, new_key
from swarmlet.security.sealing import ClusterKey
from swarmlet.state.command import (
    AddVariableKey,
    Applied,
    DeleteVariable,
    PutVariable,
    RemoveVariableKey,
    ResealedVariable,
    ResealVariables,
)
from swarmlet.state.view import Table, View

#: Variables sealed anew in one command: within a slice of the loop, and far below an entry's size.
RESEAL_VARIABLES_MAX = 128
RESEAL_BYTES_MAX = 512 * 1024
#: Times that a key is offered; each one lost means that another node added one meanwhile.
KEY_TRIES_MAX = 5


@dataclass(frozen=True, slots=True)
class OpenVariable:
    """A variable with its items in clear. They do not show in its `repr`."""

    variable: Variable
    items: dict[str, str] = field(repr=False)


class Variables:
    """The variables of the cluster, through this node. Used from the event loop alone."""

    def __init__(
        self, replica: Replica, cluster_key: ClusterKey, random_bytes: Callable[[int], bytes]
    ) -> None:
        """`random_bytes` is the system's generator: it makes keys and salts."""
        self._replica = replica
        self._cluster_key = cluster_key
        self._random_bytes = random_bytes
        self._keyring = VariableKeyring(cluster_key)
        self._keyring_index = -1

    # Writing.

    async def put(
        self,
        namespace: Namespace,
        path: str,
        items: dict[str, str],
        actor: str,
        *,
        check_index: int | None = None,
        request_id: RequestId | None = None,
    ) -> Variable:
        """Create or replace a variable; what is kept of it. `check_index`: see `PutVariable`.

        Raises InvalidInput, NotFound for the namespace, Conflict when `check_index` does not fit, Overloaded,
        StorageError, and what `Replica.submit` raises.
        """
        body = await self.sealed(namespace, path, items, check_index)
        try:
            applied = await self._replica.submit(body, actor, request_id=request_id)
        except Conflict:
            # This copy may have been behind a rotation, after which the old key was removed.
            view = await self._replica.barrier()
            if any(key.id == body.key_id for key in view.variable_keys()):
                raise
            body = await self.sealed(namespace, path, items, check_index)
            applied = await self._replica.submit(body, actor)
        return self.written(body, applied)

    async def sealed(
        self, namespace: Namespace, path: str, items: dict[str, str], check_index: int | None = None
    ) -> PutVariable:
        """The command that puts a variable, checked and sealed, for who submits it himself."""
        command = self.try_seal(namespace, path, items, check_index)
        if command is None:
            await self._replica.barrier()
            if not self._known_keyring().active:
                await self._add_key("local", only_first=True)
            command = self.try_seal(namespace, path, items, check_index)
        if command is None:
            raise Unavailable("the first key of the keyring has not come here yet; try again")
        return command

    def try_seal(
        self, namespace: Namespace, path: str, items: dict[str, str], check_index: int | None = None
    ) -> PutVariable | None:
        """As `sealed`, without waiting: None while this node knows no key."""
        check_path(path)
        check_items(items)
        keyring = self._known_keyring()
        if not keyring.active:
            return None
        key_id, sealed = keyring.seal(namespace, path, items, self._random_bytes(SALT_BYTES))
        return PutVariable(
            namespace=namespace, path=path, key_id=key_id, sealed=sealed, check_index=check_index
        )

    def written(self, body: PutVariable, applied: Applied) -> Variable:
        """What is kept of a variable that was put."""
        kept = self._replica.view.variable(body.namespace, body.path)
        if kept is not None and kept.modify_index == applied.index:
            return kept
        # Written or deleted again meanwhile: what is known of this write.
        return Variable(
            namespace=body.namespace,
            path=body.path,
            key_id=body.key_id,
            sealed=body.sealed,
            create_index=kept.create_index if kept is not None else applied.index,
            modify_index=applied.index,
            create_time_ns=kept.create_time_ns if kept is not None else 0,
            modify_time_ns=kept.modify_time_ns if kept is not None else 0,
        )

    async def delete(
        self, namespace: Namespace, path: str, actor: str, *, check_index: int | None = None
    ) -> int:
        """Forget a variable, if there is one; the index. Raises Conflict when `check_index` does not fit."""
        body = DeleteVariable(namespace=namespace, path=path, check_index=check_index)
        return (await self._replica.submit(body, actor)).index

    # Reading.

    async def get(self, namespace: Namespace, path: str, *, stale: bool = False) -> OpenVariable | None:
        """A variable in clear, or None. Not `stale`: it holds everything acknowledged before (ReadIndex)."""
        view = self._replica.view if stale else await self._replica.barrier()
        found = view.variable(namespace, path)
        return None if found is None else self.open(found)

    def open(self, variable: Variable) -> OpenVariable:
        """A variable of a view, in clear. Raises Unavailable when its key has not come here yet, StorageError."""
        return OpenVariable(variable, self._known_keyring().open(variable))

    def opener(self) -> Callable[[Variable], dict[str, str]]:
        """What opens variables of the present view, in any thread. Raises as `open`."""
        return self._known_keyring().open

    def _known_keyring(self) -> VariableKeyring:
        """The keyring as this node's copy of the state has it."""
        view = self._replica.view
        index = view.table_index(Table.VARIABLE_KEYS)
        if index != self._keyring_index:
            self._keyring.load(view.variable_keys())
            self._keyring_index = index
        return self._keyring

    # The keyring.

    async def rotate(self, actor: str, *, full: bool = False) -> int:
        """Add a key that seals what is written from now on; its id. `full`: seal everything else anew, too."""
        await self._replica.barrier()
        key_id = await self._add_key(actor, only_first=False)
        if full:
            await self.reseal(actor)
        return key_id

    async def remove_key(self, key_id: int, actor: str) -> int:
        """Forget a key under which nothing is sealed; the index. Raises Conflict, NotFound."""
        return (await self._replica.submit(RemoveVariableKey(key_id=key_id), actor)).index

    async def reseal(self, actor: str) -> int:
        """Seal what lies under older keys under the newest one; how many. Values and indexes stay."""
        done = 0
        batch: list[ResealedVariable] = []
        size = 0
        for variable in (await self._replica.barrier()).variables():
            keyring = self._known_keyring()
            if variable.key_id == keyring.active:
                continue
            batch.append(self._resealed(keyring, variable))
            size += len(variable.sealed)
            if len(batch) >= RESEAL_VARIABLES_MAX or size >= RESEAL_BYTES_MAX:
                await self._replica.submit(ResealVariables(variables=tuple(batch)), actor)
                done, batch, size = done + len(batch), [], 0
        if batch:
            await self._replica.submit(ResealVariables(variables=tuple(batch)), actor)
        return done + len(batch)

    def _resealed(self, keyring: VariableKeyring, variable: Variable) -> ResealedVariable:
        items = keyring.open(variable)
        key_id, sealed = keyring.seal(
            variable.namespace, variable.path, items, self._random_bytes(SALT_BYTES)
        )
        return ResealedVariable(
            namespace=variable.namespace,
            path=variable.path,
            key_id=key_id,
            sealed=sealed,
            modify_index=variable.modify_index,
        )

    async def _add_key(self, actor: str, *, only_first: bool) -> int:
        """A fresh key after the newest one; with `only_first`, another node's key is as good."""
        for last_try in (*[False] * (KEY_TRIES_MAX - 1), True):
            key = new_key(self._cluster_key, _newest(self._replica.view) + 1, self._random_bytes)
            try:
                await self._replica.submit(AddVariableKey(key=key), actor)
            except Conflict:
                newest = _newest(await self._replica.barrier())
                if only_first and newest:
                    return newest
                if last_try:
                    raise
            else:
                return key.id
        raise AssertionError("the last try raises")


def _newest(view: View) -> int:
    return max((key.id for key in view.variable_keys()), default=0)

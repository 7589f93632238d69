"""Commands about variables and the keyring that they are sealed under. Nothing here can open one."""

from __future__ import annotations

import msgspec

from swarmlet.errors import Conflict, InvalidInput, NotFound, Overloaded
from swarmlet.model.variable import ITEMS_BYTES_MAX, Variable, check_path
from swarmlet.state.command import (
    AddVariableKey,
    DeleteVariable,
    PutVariable,
    RemoveVariableKey,
    ResealVariables,
)
from swarmlet.state.step import Step
from swarmlet.state.store import VARIABLE_BYTES_MAX, VARIABLE_KEYS_MAX, VARIABLES_MAX

#: Sealed items are their bytes, the lengths of keys and values, and what the sealing adds.
SEALED_BYTES_MAX = 2 * ITEMS_BYTES_MAX


def put(step: Step, body: PutVariable) -> None:
    """Create or replace a variable, if it is where the caller thinks it is."""
    store = step.store
    before = store.variable(body.namespace, body.path)
    _check_index(before, body.namespace, body.path, body.check_index)
    if store.variable_key(body.key_id) is None:
        raise Conflict(f"there is no key {body.key_id} in the keyring any more; write the variable again")
    if len(body.sealed) > SEALED_BYTES_MAX:
        raise InvalidInput(f"a sealed variable of {len(body.sealed):_} B exceeds {SEALED_BYTES_MAX:_} B")
    if before is None:
        _check_new(step, body)
    grown = store.variable_bytes + len(body.sealed) - (len(before.sealed) if before else 0)
    if grown > VARIABLE_BYTES_MAX and (before is None or len(body.sealed) > len(before.sealed)):
        raise Overloaded(f"the variables have {VARIABLE_BYTES_MAX:_} B already; delete some first")
    store.put_variable(
        Variable(
            namespace=body.namespace if before is None else before.namespace,
            path=body.path if before is None else before.path,
            key_id=body.key_id,
            sealed=body.sealed,
            create_index=before.create_index if before else step.index,
            modify_index=step.index,
            create_time_ns=before.create_time_ns if before else step.now_ns,
            modify_time_ns=step.now_ns,
        )
    )
    store.variable_changed(body.namespace, body.path)


def _check_new(step: Step, body: PutVariable) -> None:
    check_path(body.path)
    if step.store.namespace(body.namespace) is None:
        raise NotFound(f'there is no namespace "{body.namespace}"')
    if step.store.variable_count() >= VARIABLES_MAX:
        raise Overloaded(f"there are {VARIABLES_MAX} variables already; delete some first")


def delete(step: Step, body: DeleteVariable) -> None:
    """Forget a variable, if it is where the caller thinks it is."""
    before = step.store.variable(body.namespace, body.path)
    _check_index(before, body.namespace, body.path, body.check_index)
    if before is not None:
        step.store.delete_variable(before)


def _check_index(before: Variable | None, namespace: str, path: str, wanted: int | None) -> None:
    found = before.modify_index if before else 0
    if wanted is not None and found != wanted:
        state = f"is at index {found}" if found else "does not exist"
        raise Conflict(
            f"variable {path} in namespace {namespace} {state}, the write was made for {wanted or 'none'}"
        )


def add_key(step: Step, body: AddVariableKey) -> None:
    """Add a key. Two nodes that do so at once make one: the second one's id is taken."""
    newest = step.store.newest_variable_key()
    if body.key.id != newest + 1:
        raise Conflict(
            f"the newest key of the keyring is {newest}; the next one is {newest + 1}, not {body.key.id}"
        )
    if sum(1 for _ in step.store.variable_keys()) >= VARIABLE_KEYS_MAX:
        raise Overloaded(
            f"the keyring has {VARIABLE_KEYS_MAX} keys; seal the variables anew and remove old ones"
        )
    step.store.put_variable_key(
        msgspec.structs.replace(body.key, create_index=step.index, create_time_ns=step.now_ns)
    )


def remove_key(step: Step, body: RemoveVariableKey) -> None:
    """Forget a key that nothing needs."""
    if step.store.variable_key(body.key_id) is None:
        raise NotFound(f"there is no key {body.key_id} in the keyring")
    if body.key_id == step.store.newest_variable_key():
        raise Conflict(f"key {body.key_id} is the one that seals new variables; rotate first")
    uses = step.store.variable_key_uses(body.key_id)
    if uses:
        raise Conflict(f"{uses} variables are sealed under key {body.key_id}; rotate with -full first")
    step.store.delete_variable_key(body.key_id)


def reseal(step: Step, body: ResealVariables) -> None:
    """Put variables under another key; one that was written meanwhile keeps what was written."""
    for resealed in body.variables:
        before = step.store.variable(resealed.namespace, resealed.path)
        if before is None or before.modify_index != resealed.modify_index:
            continue
        if step.store.variable_key(resealed.key_id) is None or len(resealed.sealed) > SEALED_BYTES_MAX:
            continue
        step.store.put_variable(
            msgspec.structs.replace(before, key_id=resealed.key_id, sealed=resealed.sealed)
        )

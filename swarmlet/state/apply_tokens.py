"""Commands about join tokens. Every refusal is exact: the joiner shows it to the person at the keyboard."""

from __future__ import annotations

import msgspec

from swarmlet.errors import Conflict, JoinRefused, NotFound, Overloaded
from swarmlet.model.cluster import JoinToken
from swarmlet.state.apply_nodes import GONE
from swarmlet.state.command import CreateJoinToken, RevokeJoinToken, UseJoinToken
from swarmlet.state.step import Step, check_name
from swarmlet.state.store import JOIN_TOKENS_MAX

UNLIMITED = -1


def create(step: Step, body: CreateJoinToken) -> None:
    """Keep a new token; where the table is full, those that nobody can use any more make room."""
    token = body.token
    check_name("a join token's accessor", token.accessor)
    if step.store.join_token(token.accessor) is not None:
        raise Conflict(f"there is a join token {token.accessor} already")
    if _by_hash(step, token.secret_hash) is not None:
        raise Conflict("there is a join token with this secret already")
    tokens = list(step.store.join_tokens())
    if len(tokens) >= JOIN_TOKENS_MAX:
        dead = [old for old in tokens if _refusal(step, old) is not None]
        if not dead:
            raise Overloaded(f"there are {JOIN_TOKENS_MAX} valid join tokens already; revoke one first")
        for old in dead:
            step.store.delete_join_token(old.accessor)
    if not token.created_at_ns:
        token = msgspec.structs.replace(token, created_at_ns=step.now_ns)
    step.store.put_join_token(token)


def revoke(step: Step, body: RevokeJoinToken) -> None:
    """Make a token invalid."""
    token = step.store.join_token(body.accessor)
    if token is None:
        raise NotFound(f'there is no join token "{body.accessor}"; see `swarmlet token list`')
    if not token.is_revoked:
        step.store.put_join_token(msgspec.structs.replace(token, is_revoked=True))


def use(step: Step, body: UseJoinToken) -> None:
    """Count one use, unless something is wrong with the token or the name."""
    token = _by_hash(step, body.secret_hash)
    if token is None:
        raise JoinRefused(
            "token_wrong",
            "the cluster knows no such join token; copy it whole, or make one: swarmlet token create",
        )
    refusal = _refusal(step, token)
    if refusal is not None:
        raise refusal
    check_name("a node's name", body.node_name)
    holder = step.store.node_by_name(body.node_name)
    if holder is not None and holder.id != body.node_id and holder.status not in GONE:
        raise JoinRefused(
            "name_taken",
            f'the name "{body.node_name}" is held by node {holder.id} at {holder.address or "an unknown address"}; '
            "join under another name: --name",
        )
    if token.uses_left > 0:
        step.store.put_join_token(msgspec.structs.replace(token, uses_left=token.uses_left - 1))
    step.outcome = msgspec.structs.replace(step.outcome, accessor=token.accessor)


def _by_hash(step: Step, secret_hash: bytes) -> JoinToken | None:
    return next((token for token in step.store.join_tokens() if token.secret_hash == secret_hash), None)


def _refusal(step: Step, token: JoinToken) -> JoinRefused | None:
    """Why the token is not valid now, by the state's time."""
    advice = "make a new one: swarmlet token create"
    if token.is_revoked:
        return JoinRefused("token_revoked", f"join token {token.accessor} was revoked; {advice}")
    if step.now_ns >= token.expires_at_ns:
        seconds = (step.now_ns - token.expires_at_ns) // 1_000_000_000
        return JoinRefused("token_expired", f"join token {token.accessor} expired {seconds} s ago; {advice}")
    if token.uses_left != UNLIMITED and token.uses_left <= 0:
        return JoinRefused("token_used_up", f"join token {token.accessor} has no uses left; {advice}")
    return None

"""Who may do what."""

from __future__ import annotations

import pytest

from swarmlet.errors import Unauthorized
from swarmlet.ids import NodeId
from swarmlet.security.access import (
    ADMIN,
    ANONYMOUS,
    LEADER,
    Capability,
    Identity,
    admin_token,
    admin_token_hash,
    authorize,
    identify,
    node_identity,
)

NODE = node_identity(NodeId("n1"))
MACHINES = {Capability.NODE_REPORT, Capability.FORWARD}


@pytest.mark.parametrize("capability", list(Capability))
@pytest.mark.parametrize(
    ("identity", "allowed"),
    [
        (ANONYMOUS, {Capability.STATUS_READ}),
        (ADMIN, set(Capability) - MACHINES),
        (NODE, MACHINES | {Capability.STATUS_READ}),
        (LEADER, set(Capability)),
    ],
)
def test_each_identity_has_its_capabilities_and_no_other(
    identity: Identity, allowed: set[Capability], capability: Capability
) -> None:
    if capability in allowed:
        authorize(identity, capability)
    else:
        with pytest.raises(Unauthorized, match=capability):
            authorize(identity, capability)


def test_the_admin_token_is_known_by_its_hash() -> None:
    token = admin_token(bytes(range(16)))
    assert token == "00010203-0405-0607-0809-0a0b0c0d0e0f"
    stored = admin_token_hash(token)
    assert identify(token + "\n", stored) == ADMIN
    assert identify("", stored) == ANONYMOUS
    for wrong in (token[:-1], token + "0", stored, "é"):
        with pytest.raises(Unauthorized):
            identify(wrong, stored)
    with pytest.raises(Unauthorized):
        identify(token, "")

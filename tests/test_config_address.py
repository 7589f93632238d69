"""Addresses as a user writes them."""

from __future__ import annotations

import pytest

from swarmlet.config import parse_address
from swarmlet.errors import InvalidInput


@pytest.mark.parametrize(
    ("text", "address"),
    [("h", ("h", 1)), ("h:2", ("h", 2)), ("::1", ("::1", 1)), ("[::1]", ("::1", 1)), ("[::1]:2", ("::1", 2))],
)
def test_an_address_has_a_host_and_perhaps_a_port(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text, 1) == address


@pytest.mark.parametrize(
    "text", ["", ":1", "h:", "h:0", "h:65536", "h:١", "[::1", "[]", "[::1]2", "a b", "a/b"]
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="not an address"):
        parse_address(text, 1)

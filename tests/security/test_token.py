"""Join tokens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmlet.errors import JoinRefused
from swarmlet.security.token import (
    PART_BYTES,
    TOKEN_CHARACTERS,
    Terms,
    Token,
    Verdict,
    judge,
    parse_target,
    parse_token,
    refusal,
    secret_hash,
)

parts = st.binary(min_size=PART_BYTES, max_size=PART_BYTES)
tokens = st.builds(Token, parts, parts)
TOKEN = Token(bytes(range(PART_BYTES)), bytes(range(100, 100 + PART_BYTES)))
TEXT = TOKEN.text()


def refused(text: str) -> JoinRefused:
    with pytest.raises(JoinRefused) as caught:
        parse_target(text) if "@" in text else parse_token(text)
    return caught.value


@given(tokens)
def test_a_token_survives_its_text(token: Token) -> None:
    assert len(token.text()) == TOKEN_CHARACTERS
    assert parse_token(f"  {token.text()}\n") == token


@given(tokens, st.data())
def test_a_changed_character_is_never_accepted(token: Token, data: st.DataObject) -> None:
    text = token.text()
    at = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.characters() | st.sampled_from("abcdefghijklmnopqrstuvwxyz234567-ABCDEFG"))
    if text[at] != other:
        assert refused(text[:at] + other + text[at + 1 :]).code in {"token_malformed", "token_truncated"}


@given(tokens, st.data())
def test_a_token_that_is_cut_off_says_so(token: Token, data: st.DataObject) -> None:
    end = data.draw(st.integers(0, TOKEN_CHARACTERS - 1))
    assert refused(token.text()[:end]).code == "token_truncated"


@given(tokens, st.data())
def test_a_token_without_its_beginning_or_with_more_text_is_malformed(
    token: Token, data: st.DataObject
) -> None:
    begin = data.draw(st.integers(5, TOKEN_CHARACTERS - 1))
    assert refused(token.text()[begin:]).code == "token_malformed"
    assert refused(token.text() + data.draw(st.sampled_from("a2-"))).code == "token_malformed"


@given(st.text())
def test_any_text_is_refused_politely(text: str) -> None:
    assert refused(text.replace("@", "")).code in {"token_malformed", "token_truncated"}


def test_swapped_parts_are_malformed() -> None:
    prefix, authority, secret = TEXT.split("-")
    assert refused(f"{prefix}-{secret}-{authority}").code == "token_malformed"


def test_a_newer_form_says_which_version_to_use() -> None:
    error = refused("swl2" + TEXT[4:])
    assert error.code == "token_malformed"
    assert "of form swl2" in str(error)


@pytest.mark.parametrize(
    ("where", "address"),
    [
        ("h1", ("h1", 4747)),
        ("10.0.0.1:99", ("10.0.0.1", 99)),
        ("fd00::1", ("fd00::1", 4747)),
        ("[fd00::1]", ("fd00::1", 4747)),
        ("[fd00::1]:99", ("fd00::1", 99)),
    ],
)
def test_the_target_names_host_and_port(where: str, address: tuple[str, int]) -> None:
    assert parse_target(f"{TEXT}@{where}") == (TOKEN, address)


@pytest.mark.parametrize(
    "where", ["h1:", "h1:0", "h1:65536", "h1:x", "[fd00::1", "[::1]x", "[::1]:", ":99", "a b"]
)
def test_a_bad_address_is_malformed(where: str) -> None:
    assert refused(f"{TEXT}@{where}").code == "token_malformed"


def test_a_missing_address_is_named() -> None:
    with pytest.raises(JoinRefused, match="address is missing"):
        parse_target(TEXT)
    with pytest.raises(JoinRefused, match="address is missing"):
        parse_target(TEXT + "@")


def test_a_token_never_shows_its_secret() -> None:
    assert TOKEN.secret.hex() not in repr(TOKEN)
    assert TEXT.split("-")[2] not in repr(TOKEN)
    assert secret_hash(TOKEN.secret) != secret_hash(TOKEN.authority)


@pytest.mark.parametrize(
    ("terms", "verdict"),
    [
        (None, Verdict.WRONG),
        (Terms(expires_at=None, uses_left=None), Verdict.VALID),
        (Terms(expires_at=101.0, uses_left=1), Verdict.VALID),
        (Terms(expires_at=100.0, uses_left=1), Verdict.EXPIRED),
        (Terms(expires_at=101.0, uses_left=0), Verdict.USED_UP),
        (Terms(expires_at=99.0, uses_left=0, revoked=True), Verdict.REVOKED),
    ],
)
def test_each_verdict_has_its_cause(terms: Terms | None, verdict: Verdict) -> None:
    assert judge(terms, 100.0) is verdict
    if verdict is not Verdict.VALID:
        assert refusal(verdict).code == verdict.value

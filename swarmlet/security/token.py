"""Join tokens: `swl1-<CA digest>-<secret>`, each part of fixed length with a checksum of its own.

The checksum is a CRC-32, which detects every change within 32 neighbouring bits for certain: a mistyped
character can not turn into another valid token, and is told apart from a token that is merely wrong.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import zlib
from dataclasses import dataclass
from enum import StrEnum

from swarmlet.config import MESH_PORT, parse_address
from swarmlet.errors import InvalidInput, JoinRefused

PREFIX = "swl1-"
#: With four bytes of checksum this is 25 bytes, which are 40 characters without padding bits to play with.
#: 168 bits of a SHA-256 digest are beyond any search for a second CA with the same one.
PART_BYTES = 21
_PART_CHARACTERS = (PART_BYTES + 4) * 8 // 5
TOKEN_CHARACTERS = len(PREFIX) + 2 * _PART_CHARACTERS + 1

_MAKE_ANOTHER = "make a new one on any node with `swarmlet token create`"


@dataclass(frozen=True, slots=True)
class Token:
    """A join token. `authority` is the beginning of the SHA-256 digest of the CA's certificate."""

    authority: bytes
    secret: bytes

    def __post_init__(self) -> None:
        """Both parts have their fixed length."""
        assert len(self.authority) == len(self.secret) == PART_BYTES

    def __repr__(self) -> str:
        """Without the secret: tokens end up in logs otherwise."""
        return f"Token({self.authority.hex()[:8]}…)"

    def text(self) -> str:
        """The token as a user passes it on."""
        return f"{PREFIX}{_part(b'ca', self.authority)}-{_part(b'secret', self.secret)}"

    def pins(self, authority_digest: bytes) -> bool:
        """Whether a CA with this SHA-256 digest is the token's."""
        return hmac.compare_digest(self.authority, authority_digest[:PART_BYTES])


def create_token(authority_digest: bytes, randomness: bytes) -> Token:
    """A token for the CA with this digest; `randomness` is PART_BYTES from the operating system."""
    return Token(authority_digest[:PART_BYTES], randomness)


def parse_token(text: str) -> Token:
    """The token in `text` (blanks around it are ignored).

    Raises JoinRefused: token_truncated when an end is missing, token_malformed otherwise.
    """
    text = text.strip()
    if not text.startswith(PREFIX):
        if PREFIX.startswith(text):
            raise _truncated(text)
        if text.startswith("swl") and text[3:].partition("-")[0].isdigit():
            version = text.partition("-")[0]
            raise JoinRefused(
                "token_malformed",
                f"this is a join token of form {version}, this swarmlet reads swl1: "
                "use the swarmlet version of the cluster that made it",
            )
        raise JoinRefused(
            "token_malformed", f"a join token begins with {PREFIX}, this text does not; {_MAKE_ANOTHER}"
        )
    authority, _, secret = text.removeprefix(PREFIX).partition("-")
    if len(authority) == _PART_CHARACTERS and len(text) < TOKEN_CHARACTERS:
        _read_part(b"ca", authority, "first")
        raise _truncated(text)
    if len(text) < TOKEN_CHARACTERS:
        raise _truncated(text)
    if len(text) > TOKEN_CHARACTERS or len(authority) != _PART_CHARACTERS:
        raise JoinRefused(
            "token_malformed",
            f"a join token has {TOKEN_CHARACTERS} characters in three parts joined by '-', "
            f"this text has {len(text)}; copy it again as a whole",
        )
    return Token(_read_part(b"ca", authority, "first"), _read_part(b"secret", secret, "second"))


def parse_target(text: str, default_port: int = MESH_PORT) -> tuple[Token, tuple[str, int]]:
    """Token and (host, port) of `TOKEN@HOST[:PORT]`. An IPv6 address with a port stands in brackets.

    Raises JoinRefused as `parse_token` does.
    """
    token, at, where = text.strip().partition("@")
    parsed = parse_token(token)
    if not at or not where:
        raise JoinRefused(
            "token_truncated",
            "the address is missing: expected TOKEN@HOST or TOKEN@HOST:PORT, as `init` printed it",
        )
    try:
        return parsed, parse_address(where, default_port)
    except InvalidInput as error:
        raise JoinRefused("token_malformed", f"after '@': {error}") from error


def secret_hash(secret: bytes) -> str:
    """What the cluster stores of a token. The secret is random, so a plain hash can not be searched."""
    return hashlib.sha256(b"swarmlet join token\x00" + secret).hexdigest()


class Verdict(StrEnum):
    """What the cluster says about a token; the values are the codes of `JoinRefused`."""

    VALID = "token_valid"
    WRONG = "token_wrong"
    EXPIRED = "token_expired"
    USED_UP = "token_used_up"
    REVOKED = "token_revoked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What decides about a stored token. `expires_at` is wall time in seconds; None means without limit."""

    expires_at: float | None
    uses_left: int | None
    revoked: bool = False


def judge(terms: Terms | None, now: float) -> Verdict:
    """Whether a token with these terms (None: the cluster has no such token) may be used at `now`."""
    if terms is None:
        return Verdict.WRONG
    if terms.revoked:
        return Verdict.REVOKED
    if terms.expires_at is not None and now >= terms.expires_at:
        return Verdict.EXPIRED
    if terms.uses_left is not None and terms.uses_left <= 0:
        return Verdict.USED_UP
    return Verdict.VALID


#: The sentence for each refusal.
SENTENCES: dict[Verdict, str] = {
    Verdict.WRONG: f"this cluster has no such join token: it may be another cluster's, or long gone; {_MAKE_ANOTHER}",
    Verdict.EXPIRED: f"the join token has expired; {_MAKE_ANOTHER}",
    Verdict.USED_UP: f"the join token has been used as often as it allows; {_MAKE_ANOTHER}",
    Verdict.REVOKED: f"the join token was revoked; {_MAKE_ANOTHER}",
}


def refusal(verdict: Verdict) -> JoinRefused:
    """The error for a verdict other than VALID."""
    return JoinRefused(verdict.value, SENTENCES[verdict])


def _part(kind: bytes, data: bytes) -> str:
    return base64.b32encode(data + _checksum(kind, data)).decode().lower()


def _read_part(kind: bytes, text: str, which: str) -> bytes:
    try:
        # Capital letters are no form of ours: one token has one text.
        raw = base64.b32decode(text.upper() if text == text.lower() else "!", casefold=False)
    except ValueError as error:
        raise _mistyped(which) from error
    data, checksum = raw[:PART_BYTES], raw[PART_BYTES:]
    if checksum != _checksum(kind, data):
        raise _mistyped(which)
    return data


def _checksum(kind: bytes, data: bytes) -> bytes:
    return zlib.crc32(data, zlib.crc32(kind)).to_bytes(4, "big")


def _truncated(text: str) -> JoinRefused:
    return JoinRefused(
        "token_truncated",
        f"the join token is cut off: {len(text)} of {TOKEN_CHARACTERS} characters; copy it again as a whole",
    )


def _mistyped(which: str) -> JoinRefused:
    return JoinRefused(
        "token_malformed",
        f"the {which} part of the join token is mistyped (its checksum is off); copy it again",
    )

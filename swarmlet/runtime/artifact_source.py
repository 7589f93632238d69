"""What an artifact's source means: how it is fetched, its checksum, whether it is an archive. Pure.

The forms are go-getter's, as far as job files use them: a URL, `git::URL`, a local path, options also as query
parameters, `host/path` of the large code hosts as a git repository.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from swarmlet.errors import InvalidInput
from swarmlet.model.job import Artifact

_FORCED = re.compile(r"([a-z0-9]+)::(.+)", re.IGNORECASE | re.DOTALL)
_CODE_HOST = re.compile(r"(github\.com|gitlab\.com|bitbucket\.org)/([^/]+)/([^/?]+)(.*)", re.DOTALL)
_SCP = re.compile(r"[A-Za-z0-9_.-]+@[A-Za-z0-9.-]+:.+")
#: Option names that are ours and not the server's, when they stand in a URL.
_PARAMETERS = ("checksum", "archive", "filename", "ref", "depth")
_DIGITS = {"md5": 32, "sha1": 40, "sha256": 64, "sha512": 128}
_HEX = re.compile(r"[0-9a-fA-F]+\Z")
#: Endings, the longest first, and how such a file is unpacked.
_ENDINGS = (
    (".tar.gz", "tar"), (".tar.bz2", "tar"), (".tar.xz", "tar"), (".tgz", "tar"), (".tbz2", "tar"), (".txz", "tar"),
    (".tar", "tar"), (".zip", "zip"),
)  # fmt: skip
DEPTH_MAX = 1_000_000


class Getter(StrEnum):
    """Who fetches it."""

    HTTP = "http"
    GIT = "git"
    LOCAL = "local"


@dataclass(frozen=True, slots=True)
class Source:
    """A source that can be fetched."""

    getter: Getter
    #: URL, repository or absolute path.
    location: str
    #: The last part of the path: the file's name, unless the job says another.
    name: str
    #: "tar", "zip" or "".
    archive: str = ""
    #: Name of the hash and the expected digits; None: not checked.
    checksum: tuple[str, str] | None = None
    #: Git: what to check out, below which directory, how much history (0: all).
    ref: str = ""
    directory: str = ""
    depth: int = 1


def source_of(artifact: Artifact) -> Source:
    """What to fetch, and how. Raises InvalidInput."""
    text, forced = artifact.source.strip(), ""
    if found := _FORCED.fullmatch(text):
        forced, text = found[1].lower(), found[2]
    if not forced and (found := _CODE_HOST.fullmatch(text)):
        forced, text = "git", f"https://{found[1]}/{found[2]}/{found[3]}{found[4]}"
    if forced == "git" or (not forced and (_SCP.fullmatch(text) or text.startswith(("git://", "ssh://")))):
        return _git(text, artifact)
    if forced in {"http", "https"} or (not forced and text.startswith(("http://", "https://"))):
        return _http(text, artifact)
    if forced in {"file", ""} and (text.startswith("file://") or "://" not in text):
        path = unquote(urlsplit(text).path) if text.startswith("file://") else text
        return _local(path, artifact)
    raise InvalidInput(f"artifact {_shown(text)}: expected http, https, git, or a local path")


def _http(text: str, artifact: Artifact) -> Source:
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise InvalidInput(f"artifact {_shown(text)}: not a URL")
    ours, theirs = _parameters(parts.query)
    options = {**ours, **artifact.options}
    location = urlunsplit((parts.scheme, parts.netloc, parts.path, urlencode(theirs), ""))
    return _file(Getter.HTTP, location, posixpath.basename(unquote(parts.path)), options, artifact)


def _local(path: str, artifact: Artifact) -> Source:
    if not path.startswith("/"):
        raise InvalidInput(f"artifact {_shown(path)}: expected a URL, or an absolute path of the node")
    return _file(Getter.LOCAL, posixpath.normpath(path), posixpath.basename(path), artifact.options, artifact)


def _file(getter: Getter, location: str, name: str, options: dict[str, str], artifact: Artifact) -> Source:
    name = options.get("filename") or name
    if artifact.mode != "file" and ("/" in name or name in {"", ".", ".."}):
        if not options.get("archive"):
            raise InvalidInput(
                f"artifact {_shown(location)}: no file name in it; set options {{ filename = … }}"
            )
        name = "archive"
    return Source(
        getter=getter,
        location=location,
        name=name,
        archive=_archive(name, options, artifact.mode),
        checksum=_checksum(options.get("checksum", "")),
    )


def _archive(name: str, options: dict[str, str], mode: str) -> str:
    if mode == "file":
        return ""
    wanted = options.get("archive", "")
    if wanted in {"false", "0", "no"}:
        return ""
    ending = f".{wanted.lstrip('.')}" if wanted else name.lower()
    kind = next((kind for end, kind in _ENDINGS if ending.endswith(end)), "")
    if wanted and not kind:
        raise InvalidInput(
            f'artifact: archive "{wanted[:20]}" is unknown; expected tar.gz, tar.bz2, tar.xz, tar or zip'
        )
    return kind


def _checksum(text: str) -> tuple[str, str] | None:
    if not text:
        return None
    kind, colon, digits = text.partition(":")
    if not colon:
        digits = text
        kind = next((name for name, length in _DIGITS.items() if length == len(digits)), "")
    if kind not in _DIGITS or len(digits) != _DIGITS[kind] or not _HEX.match(digits):
        raise InvalidInput(
            f'artifact: checksum "{text[:20]}…" is none; expected for example sha256: and 64 hexadecimal digits'
        )
    return kind, digits.lower()


def _git(text: str, artifact: Artifact) -> Source:
    head, question, query = text.partition("?")
    ours, theirs = _parameters(query if question else "")
    options = {**ours, **artifact.options}
    scheme, separator, rest = head.partition("://")
    repository, double, directory = (rest if separator else head).partition("//")
    location = f"{scheme}{separator}{repository}" if separator else repository
    location += f"?{urlencode(theirs)}" if theirs else ""
    ref = options.get("ref", "")
    if location.startswith("-") or ref.startswith("-"):
        raise InvalidInput("artifact: a repository or ref cannot begin with -")
    if options.get("checksum"):
        raise InvalidInput("artifact: a repository has no checksum; set ref to a commit")
    depth = options.get("depth", "1")
    if not depth.isascii() or not depth.isdigit() or int(depth) > DEPTH_MAX:
        raise InvalidInput(f'artifact: depth "{depth[:20]}" is no number of commits')
    return Source(
        getter=Getter.GIT,
        location=location,
        name=posixpath.basename(repository.rstrip("/")).removesuffix(".git"),
        ref=ref,
        directory=posixpath.normpath(directory).lstrip("/") if double and directory else "",
        depth=int(depth),
    )


def _parameters(query: str) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Our options in a query, and the rest of it."""
    pairs = parse_qsl(query, keep_blank_values=True)
    return (
        {key: value for key, value in pairs if key in _PARAMETERS},
        [(key, value) for key, value in pairs if key not in _PARAMETERS],
    )


def _shown(text: str) -> str:
    """For messages: without a password or a query, which may be a token."""
    parts = urlsplit(text)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme + '://' if parts.scheme else ''}{host}{parts.path}"[:200]

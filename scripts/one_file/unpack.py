"""Where the one file keeps what it unpacks, and how it finds that again: the second code of the file.

The content lies under the digest of itself, in /var/cache/swarmlet (root's) or the user's cache; it is made complete
under another name and then renamed, so it is whole or absent. Code that somebody else could have written is
not run: the directories belong to root or to the user, and nobody else may write there. Every process keeps a shared
lock on its content for life; a new content removes older ones that nobody holds, all but the last one (the way back).

This runs before each command: it imports nothing that Python has not loaded by then, until there is something to do.
"""

from __future__ import annotations

import fcntl
import os
import stat
import sys

#: Type checkers take this for the one in `typing`, which costs milliseconds to import.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

#: Root's; other users run what root has unpacked.
SHARED = "/var/cache/swarmlet"
#: The archive's name in the file.
CONTENT = "content.tar.xz"
#: Of 64 hexadecimal digits; enough that no two contents ever meet.
DIGEST_LENGTH = 32
#: Contents that stay although nobody runs them, beside the newest: the one to go back to.
KEPT_MAX = 1
NEW, OLD = ".new-", ".old-"
OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


class Unusable(Exception):
    """The content cannot be had; the message is for the person who typed the command. Nothing was changed."""


def start(facts: Mapping[str, str]) -> int:
    """Find the content, unpack it if this is the first time, and run the program. The exit code."""
    file = os.path.abspath(sys.argv[0])
    if not (sys.flags.isolated and sys.flags.no_site):
        # As `python3 swarmlet`: other people's packages must not mix with those in here.
        os.execv(sys.executable, [sys.executable, "-I", "-S", file, *sys.argv[1:]])
    try:
        content = find(file, facts, os.environ)
    except Unusable as error:
        sys.stderr.write(f"swarmlet: {error}\n")
        return 1
    sys.path[:] = [*sys.path[1:], content]
    # For the commands that start another process of this program; see swarmlet/cli/program.py.
    sys.modules["__main__"].PROGRAM_FILE = file  # type: ignore[attr-defined]
    del sys.modules["unpack"]
    from swarmlet.__main__ import main

    return main()


def find(file: str, facts: Mapping[str, str], environment: Mapping[str, str]) -> str:
    """The directory with the content, held. Raises Unusable."""
    user, digest = os.geteuid(), facts["digest"]
    *shared, own = places(user, environment)
    for base in shared:
        try:
            if hold(base, digest, user):
                return os.path.join(base, digest)
        except Unusable:
            # Not trustworthy: this user's own is.
            continue
    own = os.path.realpath(own)
    # Twice: what was there may be removed by another version at this very moment.
    for _ in range(2):
        if hold(own, digest, user):
            return os.path.join(own, digest)
        unpack_apart(file, own, facts, user)
    if hold(own, digest, user):
        return os.path.join(own, digest)
    raise Unusable(f"what was unpacked into {own} is gone again")


def places(user: int, environment: Mapping[str, str]) -> list[str]:
    """Where the content may be; the last is where this user unpacks it."""
    chosen = environment.get("SWARMLET_CACHE_DIR", "")
    if chosen:
        return [chosen]
    if user == 0:
        return [SHARED]
    cache = environment.get("XDG_CACHE_HOME", "")
    return [
        SHARED,
        os.path.join(cache if os.path.isabs(cache) else os.path.expanduser("~/.cache"), "swarmlet"),
    ]


def hold(base: str, digest: str, user: int) -> bool:
    """Whether the content is there; it is then not removed as long as this process lives. Raises Unusable."""
    path = os.path.join(base, digest)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise Unusable(f"{path} cannot be used: {error.strerror}") from error
    check_ours(path, os.fstat(descriptor), user)
    check_way(base, user)
    try:  # noqa: SIM105 (contextlib would be imported before every command)
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        # A file system without locks, or somebody who holds it against all others: it stays usable.
        pass
    try:
        # The one that was opened may have been renamed, to be removed, before it was locked.
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False


def check_ours(path: str, found: os.stat_result, user: int) -> None:
    """Only root and this user may have written what is in there. Raises Unusable."""
    if not stat.S_ISDIR(found.st_mode):
        raise Unusable(f"{path} is not a directory: remove it")
    if found.st_uid not in {0, user}:
        raise Unusable(
            f"{path} belongs to user {found.st_uid}, not to root or user {user}: code in there is not run; remove it"
        )
    if found.st_mode & OTHERS_MAY_WRITE:
        raise Unusable(
            f"{path} may be written by others (mode {stat.S_IMODE(found.st_mode):o}): code in there is not run; remove it"
        )


def check_way(base: str, user: int) -> None:
    """Nobody else can put another directory in the place of this one. Raises Unusable, or OSError where it is not there."""
    check_ours(base, os.lstat(base), user)
    path = os.path.dirname(os.path.realpath(base))
    while True:
        found = os.lstat(path)
        is_private_group = found.st_uid == found.st_gid  # the group of one user, as most systems have it
        writable = found.st_mode & (stat.S_IWOTH if is_private_group else OTHERS_MAY_WRITE)
        if found.st_uid not in {0, user} or (writable and not found.st_mode & stat.S_ISVTX):
            raise Unusable(
                f"{base} cannot be trusted: others may rename what is in {path} (user {found.st_uid}, mode "
                f"{stat.S_IMODE(found.st_mode):o}); name another directory in SWARMLET_CACHE_DIR"
            )
        if path == "/":
            return
        path = os.path.dirname(path)


def unpack_apart(file: str, base: str, facts: Mapping[str, str], user: int) -> None:
    """Unpack in a process of its own: what that needs (archives, decompression) is no part of an agent. Raises Unusable."""
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            unpack(file, base, facts, user)
        except Unusable as error:
            os.write(tell, str(error).encode())
        except OSError as error:
            advice = (
                "" if os.environ.get("SWARMLET_CACHE_DIR") else "; SWARMLET_CACHE_DIR names another directory"
            )
            os.write(tell, f"cannot unpack into {base}: {error.strerror or error}{advice}".encode())
        except BaseException as error:  # noqa: BLE001 (a forked child must not return into its parent's code)
            os.write(tell, f"cannot unpack {file}: {type(error).__name__}: {error}".encode())
        os._exit(0)
    os.close(tell)
    with open(told, "rb") as pipe:
        said = pipe.read().decode()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if said or status:
        raise Unusable(said or f"unpacking {file} was ended by signal {-status}")


def unpack(file: str, base: str, facts: Mapping[str, str], user: int) -> None:
    """Unpack the content below `base`, unless another process has done that meanwhile; remove old ones.

    Raises Unusable, OSError.
    """
    check_c_library(facts["glibc"])
    os.umask(0o022)
    os.makedirs(base, 0o755, exist_ok=True)
    check_way(base, user)
    # Not the directory: anybody who may read could lock that. Locks end with the process.
    lock = os.open(os.path.join(base, ".lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    path = os.path.join(base, facts["digest"])
    if os.path.lexists(path):
        return
    remove_leftovers(base)
    if os.statvfs(base).f_flag & os.ST_NOEXEC:
        raise Unusable(
            f"nothing may be run from {base} (mounted noexec): name another directory in SWARMLET_CACHE_DIR"
        )
    new = os.path.join(base, NEW + facts["digest"])
    os.mkdir(new)
    try:
        extract(file, new)
        flush(new)
        os.rename(new, path)
    finally:
        remove_leftovers(base)
    remove_unused(base, facts["digest"])


def check_c_library(needed: str) -> None:
    """The compiled modules need at least this version of glibc. Raises Unusable."""
    here = (os.confstr("CS_GNU_LIBC_VERSION") or "glibc 0").split()[-1]
    if [int(part) for part in here.split(".")[:2]] < [int(part) for part in needed.split(".")]:
        raise Unusable(
            f"this file needs glibc {needed} or newer, and this machine has {here}: build the file on a machine like this one"
        )


def extract(file: str, directory: str) -> None:
    """All of the archive. Raises Unusable where it is damaged, OSError."""
    try:
        import lzma
        import tarfile
        import zipfile
        import zlib
    except ImportError as error:
        raise Unusable(
            f"this Python lacks a part of its standard library ({error}): install all of it (Debian: python3)"
        ) from error
    try:
        with (
            zipfile.ZipFile(file) as outer,
            outer.open(CONTENT) as packed,
            tarfile.open(fileobj=packed, mode="r|xz") as archive,
        ):
            if hasattr(tarfile, "data_filter"):
                archive.extraction_filter = tarfile.data_filter
            archive.extractall(directory)
    except (lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise Unusable(f"{file} is damaged ({error}): copy it again") from error


def flush(directory: str) -> None:
    """To the disk, before it gets its name: after a loss of power it is whole or absent. Raises OSError."""
    import ctypes

    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    library = ctypes.CDLL(None, use_errno=True)
    # One call for all files, and only of this file system: sync(2) would wait for a dead network one.
    if library.syncfs(descriptor):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    os.close(descriptor)


def remove_leftovers(base: str) -> None:
    """What was not finished, by a process that was killed. Under the lock."""
    import shutil

    for name in sorted(os.listdir(base)):
        if name.startswith((NEW, OLD)):
            shutil.rmtree(os.path.join(base, name), ignore_errors=True)


def remove_unused(base: str, digest: str) -> None:
    """Older contents that no process holds, but for the last `KEPT_MAX`. Under the lock."""
    others = [
        (os.lstat(os.path.join(base, name)).st_mtime_ns, name)
        for name in os.listdir(base)
        if len(name) == DIGEST_LENGTH and name != digest
    ]
    for _, name in sorted(others)[: -KEPT_MAX or None]:
        path = os.path.join(base, name)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.rename(path, os.path.join(base, OLD + name))
        except OSError:
            # Somebody runs it.
            continue
    remove_leftovers(base)

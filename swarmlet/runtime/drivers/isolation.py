"""Namespaces, a root file system of its own and few rights: what makes a process an isolated task.

Imports the standard library only and nothing of ours: the shim and `enter.py` load it by its path, in processes
that live beside every task. Run as a script it tries all of it, with a plan on standard input: exit 0, or 1 and
the reason on standard error.

A *holder* is the first process of the task's namespaces. It builds the root file system, gives up all rights, reaps
orphans, and ends when the shim does; the kernel then ends whatever else is in its pid namespace. Task and commands
beside it enter the holder's namespaces, so a signal means to them what it means outside (the first process of a
pid namespace would ignore it).

Sources: namespaces(7), mount_namespaces(7), user_namespaces(7), pivot_root(2), capabilities(7).
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import stat
import sys
import time

# Not for us: `os.execvpe` imports it, when it is too late to import anything.
import warnings  # noqa: F401

#: Type checkers take this for the one in `typing`, which costs a megabyte to import.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any, Final, NoReturn

#: Kind of namespace -> clone flag and file below /proc/PID/ns.
NAMESPACES: Final = {
    "user": (0x1000_0000, "user"),
    "mount": (0x0002_0000, "mnt"),
    "pid": (0x2000_0000, "pid"),
    "ipc": (0x0800_0000, "ipc"),
    "uts": (0x0400_0000, "uts"),
    "network": (0x4000_0000, "net"),
}
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
MNT_DETACH = 2
#: A mount's options in /proc/self/mountinfo that a remount has to repeat, or it would be refused (or loosen them).
FLAGS: Final = {"ro": MS_RDONLY, "nosuid": MS_NOSUID, "nodev": MS_NODEV, "noexec": MS_NOEXEC}
PR_SET_PDEATHSIG, PR_SET_KEEPCAPS, PR_CAPBSET_DROP = 1, 8, 24
PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 38, 47, 2
PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
#: Of a filter's instruction.
INSTRUCTION_BYTES = 8
#: What brings the loopback device up: a request to a socket with its name and flags.
AF_INET, SOCK_DGRAM, SIOCSIFFLAGS, IFF_UP, INTERFACE_BYTES = 2, 2, 0x8914, 1, 40
CAPABILITY_VERSION = 0x2008_0522
#: A mask of capabilities has so many bits.
CAPABILITY_BITS = 64

#: Of the host, read-only: what programs need to run. As in Nomad's chroot, but of /etc only what is no secret.
HOST_DIRECTORIES: Final = ("bin", "lib", "lib32", "lib64", "libx32", "sbin", "usr")
HOST_ETC: Final = (
    "alternatives", "bash.bashrc", "bindresvport.blacklist", "ca-certificates", "ca-certificates.conf",
    "crypto-policies", "debian_version", "default/locale", "ethertypes", "fonts", "gai.conf", "group",
    "host.conf", "hostname", "hosts", "inputrc", "java", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "locale.alias",
    "locale.conf", "localtime", "login.defs", "lsb-release", "magic", "mime.types", "netconfig", "networks",
    "nsswitch.conf", "os-release", "passwd", "perl", "php", "pki/ca-trust", "pki/java", "pki/tls/certs", "profile",
    "profile.d", "protocols", "python3", "redhat-release", "resolv.conf", "rpc", "services", "shells",
    "ssl/cert.pem", "ssl/certs", "ssl/openssl.cnf", "terminfo", "timezone", "vimrc", "xattr.conf", "xdg",
)  # fmt: skip
DEVICES: Final = ("null", "zero", "full", "random", "urandom", "tty")
DEVICE_LINKS: Final = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
)
#: Where writing would change the machine, or reading tell its secrets, whoever the task runs as.
PROC_READ_ONLY: Final = ("bus", "fs", "irq", "sys", "sysrq-trigger")
PROC_HIDDEN: Final = ("acpi", "kcore", "keys", "latency_stats", "sched_debug", "scsi", "timer_list")
SYS_HIDDEN: Final = ("firmware", "kernel/debug", "kernel/security", "kernel/tracing")
#: The machine's interfaces, from a task that has a network of its own.
SYS_NETWORK: Final = ("class/net", "devices/virtual/net")
#: Shared memory of a task; it counts as the task's memory anyway. Docker's own figure.
SHM_OPTIONS = "mode=1777,size=64m"
#: Everything in a dead pid namespace is gone within milliseconds; a process stuck in the kernel may take for ever.
END_SECONDS_MAX = 5.0

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
LIBC.prctl.argtypes = (ctypes.c_int, *(ctypes.c_ulong,) * 4)


def call(what: str, function: Any, *arguments: Any) -> int:
    """Call into the C library. Raises OSError that says what was tried."""
    result: int = function(*arguments)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def mount(source: str, target: str, kind: str, flags: int, options: str = "", *, shown: str = "") -> None:
    """Mount. Raises OSError that names `shown`, or the target."""
    arguments = os.fsencode(source), os.fsencode(target), kind.encode(), flags, options.encode()
    call(f"mount {kind or source} on {shown or target}", LIBC.mount, *arguments)


def unshare(*kinds: str) -> None:
    """Leave namespaces. Raises OSError."""
    for kind in kinds:
        call(f"a new {kind} namespace", LIBC.unshare, NAMESPACES[kind][0])


def enter(pid: int, kinds: Iterable[str]) -> None:
    """Become part of that process' namespaces (of the pid namespace: children do). Raises OSError."""
    forbid_imports()
    # All of them first: after the change of the mount namespace the files are out of sight.
    descriptors = [
        (kind, os.open(f"/proc/{pid}/ns/{NAMESPACES[kind][1]}", os.O_RDONLY | os.O_CLOEXEC)) for kind in kinds
    ]
    for kind, descriptor in descriptors:
        call(f"enter the {kind} namespace", LIBC.setns, descriptor, 0)
        os.close(descriptor)


def forbid_imports() -> None:
    """From here on a module's file would be one that the task chose, run with rights that it has not."""
    sys.meta_path.clear()


def entered(plan: dict[str, Any]) -> list[str]:
    """The namespaces that the task's processes enter once they have been forked, in the order of entering."""
    return [kind for kind in ("ipc", "uts", "network", "mount") if kind in plan["namespaces"]]


# The holder ---------------------------------------------------------------------------------------------


def make(plan: dict[str, Any]) -> int:
    """Make the namespaces and the root file system; the holder's pid. Raises OSError with the reason.

    The caller is in the new user namespace afterwards, and its next children are in the new pid namespace. The
    holder ends when the caller does.
    """
    if "user" in plan["namespaces"]:
        _own_user_namespace()
    unshare(*(kind for kind in ("pid",) if kind in plan["namespaces"]))
    # The other end stays open for as long as the caller lives.
    leash, held = os.pipe()
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(held)
            _hold(plan, leash, tell)
        except BaseException as error:  # noqa: BLE001 (a forked child must not return into its parent's code)
            os.write(tell, str(error).encode() or b"failed")
        os._exit(1)
    os.close(leash)
    os.close(tell)
    with open(told, "rb") as file:
        reason = file.read()
    if reason != b"ready":
        os.waitpid(pid, 0)
        raise OSError(reason.decode(errors="replace") or "the namespaces' first process died")
    return pid


def _own_user_namespace() -> None:
    """A user namespace in which this user is itself, and may make the other namespaces."""
    uid, gid = os.geteuid(), os.getegid()
    unshare("user")
    for file, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        descriptor = os.open(f"/proc/self/{file}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)


def _hold(plan: dict[str, Any], leash: int, tell: int) -> NoReturn:
    # Twice bound to the caller: a signal reaches a holder that was stopped, the leash one that was not there yet.
    call("prctl", LIBC.prctl, PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    os.setsid()
    forbid_imports()
    unshare(*entered(plan))
    if "network" in plan["namespaces"]:
        _start_loopback()
    build_root(plan)
    # A task may be this process' user, and make it do what it cannot itself.
    give_up_rights({"uid": None, "bounding": [], "ambient": [], "filter": plan.get("filter", "")})
    # Orphans are reaped by the kernel.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    low, high = sorted((leash, tell))
    os.closerange(3, low)
    os.closerange(low + 1, high)
    os.closerange(high + 1, 65_536)
    os.write(tell, b"ready")
    os.close(tell)
    os.read(leash, 1)
    os._exit(0)


def _start_loopback() -> None:
    """A new network has this one device, which is down."""
    request = b"lo".ljust(16, b"\0") + IFF_UP.to_bytes(2, sys.byteorder)
    descriptor = call("a socket", LIBC.socket, AF_INET, SOCK_DGRAM, 0)
    call("the loopback device", LIBC.ioctl, descriptor, SIOCSIFFLAGS, request.ljust(INTERFACE_BYTES, b"\0"))
    os.close(descriptor)


def end(holder: int) -> None:
    """Kill the holder, and with it its pid namespace; returns once all of it is gone."""
    deadline = time.monotonic() + END_SECONDS_MAX
    os.kill(holder, signal.SIGKILL)
    while time.monotonic() < deadline:
        try:
            if os.waitpid(holder, os.WNOHANG)[0]:
                return
        except ChildProcessError:
            return
        time.sleep(0.005)


# The root file system ------------------------------------------------------------------------------------


class Root:
    """The task's directory as it becomes a root. Mount points are made without ever following a symbolic link.

    What the job has put into its directory wins: a template at `etc/hosts` is the task's /etc/hosts.
    """

    def __init__(self, path: str) -> None:
        """`path` is made a mount of its own, in this process' mount namespace."""
        mount("", "/", "", MS_REC | MS_PRIVATE)
        mount(path, path, "", MS_BIND | MS_REC)
        self.base = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        #: Path from the root -> whether it may be written to; the longest that fits counts.
        self.writable = {"/": False}
        #: Names of what was mounted from the host: nothing is made below.
        self._foreign: list[tuple[str, ...]] = []

    def bind(
        self, source: str, target: str, *, is_writable: bool, is_foreign: bool = True, may_yield: bool = False
    ) -> None:
        """Show a file or directory of the host. `may_yield`: not where the job has put something."""
        names = _names(target)
        is_directory = os.path.isdir(source)
        point = self.point(names, is_directory=is_directory)
        try:
            if may_yield and self._is_taken(point, is_directory=is_directory):
                return
            mount(source, f"/proc/self/fd/{point}", "", MS_BIND | MS_REC, shown=target)
        finally:
            os.close(point)
        self.writable["/" + "/".join(names)] = is_writable
        if is_foreign:
            self._foreign.append(names)

    def keep(self, target: str) -> None:
        """Leave a directory of the task itself writable."""
        point = self.point(_names(target))
        path = f"/proc/self/fd/{point}"
        try:
            mount(path, path, "", MS_BIND | MS_REC, shown=target)
        finally:
            os.close(point)
        self.writable[target] = True

    def mount(
        self, kind: str, target: str, flags: int, options: str = "", *, is_writable: bool = True
    ) -> None:
        """Mount a file system of the kernel's."""
        point = self.point(_names(target))
        try:
            mount(kind, f"/proc/self/fd/{point}", kind, flags, options, shown=target)
        finally:
            os.close(point)
        self.writable[target] = is_writable

    def link(self, name: str, to: str) -> None:
        """A symbolic link as the host has it."""
        try:
            os.symlink(to, name, dir_fd=self.base)
        except FileExistsError:
            # The job's own, or from an earlier start.
            return

    def point(self, names: Sequence[str], *, is_directory: bool = True) -> int:
        """A descriptor of the mount point, made where it is missing. Raises OSError; a link on the way is one."""
        descriptor = os.dup(self.base)
        for number, name in enumerate(names, 1):
            here = tuple(names[:number])
            is_last = number == len(names)
            may_make = not any(here[: len(foreign)] == foreign for foreign in self._foreign)
            flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
            if not is_last or is_directory:
                flags |= os.O_DIRECTORY
            try:
                try:
                    following = os.open(name, flags, dir_fd=descriptor)
                except FileNotFoundError:
                    if not may_make:
                        raise
                    self._make(name, descriptor, is_directory=not is_last or is_directory)
                    following = os.open(name, flags, dir_fd=descriptor)
            except OSError as error:
                raise OSError(error.errno, f"/{'/'.join(here)} of the task: {error.strerror}") from error
            finally:
                os.close(descriptor)
            descriptor = following
        return descriptor

    @staticmethod
    def _make(name: str, directory: int, *, is_directory: bool) -> None:
        if is_directory:
            os.mkdir(name, 0o755, dir_fd=directory)
        else:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            os.close(os.open(name, flags, 0o644, dir_fd=directory))

    @staticmethod
    def _is_taken(point: int, *, is_directory: bool) -> bool:
        if not is_directory:
            return os.fstat(point).st_size > 0
        descriptor = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=point)
        try:
            return bool(os.listdir(descriptor))
        finally:
            os.close(descriptor)

    def change_to(self) -> None:
        """Make it this process' root; nothing else of the machine is in sight afterwards."""
        os.fchdir(self.base)
        os.close(self.base)
        call("pivot_root", LIBC.pivot_root, b".", b".")
        call("let the old root go", LIBC.umount2, b".", MNT_DETACH)
        os.chdir("/")

    def restrict(self) -> None:
        """No set-user-ID, no device beyond /dev, and writable only what shall be. After `change_to`."""
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            fields = [line.split(" ") for line in file]
        # Where one lies above another, a path means the later one, and the other is out of reach.
        for path, options in {_unescape(field[4]): field[5] for field in fields}.items():
            has = {option for option in options.split(",") if option in FLAGS}
            wanted = {"nosuid"} if path.startswith("/dev/") and path != "/dev/shm" else {"nosuid", "nodev"}  # noqa: S108 (the task's own)
            if not self._is_writable(path):
                wanted.add("ro")
            if not wanted <= has:
                flags = sum(FLAGS[option] for option in has | wanted)
                mount("", path, "", MS_REMOUNT | MS_BIND | flags)

    def _is_writable(self, path: str) -> bool:
        while path not in self.writable:
            path = path.rpartition("/")[0] or "/"
        return self.writable[path]


def _unescape(text: str) -> str:
    """A path as the kernel lists it, with octal numbers for what would end it."""
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text


def _names(path: str) -> tuple[str, ...]:
    names = tuple(name for name in path.split("/") if name not in {"", "."})
    if not names or ".." in names:
        raise OSError(f"{path!r} is no place in a task's root")
    return names


def build_root(plan: dict[str, Any]) -> None:
    """Give this process, in a mount namespace of its own, the task's root file system. Raises OSError."""
    root = Root(plan["root"])
    _show_host(root)
    _show_kernel(root, is_own_pid="pid" in plan["namespaces"], is_own_ipc="ipc" in plan["namespaces"])
    if "network" in plan["namespaces"]:
        _hide(root, [f"sys/{name}" for name in SYS_NETWORK])
    for name in ("/local", "/tmp"):  # noqa: S108 (the task's own)
        root.keep(name)
    _show_secrets(root, plan["secrets"])
    root.bind(plan["shared"], "/alloc", is_writable=True, is_foreign=False)
    # The shim writes there: whoever could change the names in it would decide where.
    root.bind(plan["shared"] + "/logs", "/alloc/logs", is_writable=False, is_foreign=False)
    # A volume may lie in another one, which has to be there first.
    for volume in sorted(plan["volumes"], key=lambda volume: len(_names(volume["destination"]))):
        root.bind(volume["source"], volume["destination"], is_writable=not volume["is_read_only"])
    root.change_to()
    root.restrict()


def _show_host(root: Root) -> None:
    for name in HOST_DIRECTORIES:
        path = "/" + name
        if os.path.islink(path):
            root.link(name, os.readlink(path))
        elif os.path.isdir(path):
            root.bind(path, path, is_writable=False, may_yield=True)
    for name in HOST_ETC:
        # A link's target: it may lead to where the task sees nothing (/etc/resolv.conf into /run).
        path = os.path.realpath("/etc/" + name)
        if os.path.exists(path) and os.access(path, os.R_OK):
            root.bind(path, "/etc/" + name, is_writable=False, may_yield=True)


def _show_kernel(root: Root, *, is_own_pid: bool, is_own_ipc: bool) -> None:
    own = MS_NOSUID | MS_NODEV | MS_NOEXEC
    root.mount("tmpfs", "/dev", MS_NOSUID, "mode=755,size=64k", is_writable=False)
    for name in DEVICES:
        if not os.path.exists(f"/dev/{name}"):
            continue
        root.bind(f"/dev/{name}", f"/dev/{name}", is_writable=False, is_foreign=False)
    directory = root.point(("dev",))
    for name, to in DEVICE_LINKS:
        os.symlink(to, name, dir_fd=directory)
    os.close(directory)
    root.mount("devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620")
    root.mount("tmpfs", "/dev/shm", own, SHM_OPTIONS)  # noqa: S108 (the task's own)
    if is_own_ipc and os.path.isdir("/dev/mqueue"):
        root.mount("mqueue", "/dev/mqueue", own)
    if is_own_pid:
        root.mount("proc", "/proc", own)
    else:
        root.bind("/proc", "/proc", is_writable=True, is_foreign=False)
    for name in PROC_READ_ONLY:
        if os.path.exists("/proc/" + name):
            _fix(root, "proc/" + name)
    _hide(root, [f"proc/{name}" for name in PROC_HIDDEN])
    root.bind("/sys", "/sys", is_writable=False, is_foreign=False)
    _hide(root, [f"sys/{name}" for name in SYS_HIDDEN])


def _fix(root: Root, path: str) -> None:
    """A part of a writable file system that stays read-only."""
    point = root.point(_names(path), is_directory=os.path.isdir("/" + path))
    source = f"/proc/self/fd/{point}"
    mount(source, source, "", MS_BIND | MS_REC, shown="/" + path)
    os.close(point)
    root.writable["/" + path] = False


def _hide(root: Root, paths: Iterable[str]) -> None:
    for path in paths:
        try:
            is_directory = stat.S_ISDIR(os.stat("/" + path).st_mode)
            point = root.point(_names(path), is_directory=is_directory)
        except OSError:
            continue
        if is_directory:
            mount(
                "tmpfs", f"/proc/self/fd/{point}", "tmpfs", MS_RDONLY | MS_NOSUID, "size=0", shown="/" + path
            )
        else:
            mount("/dev/null", f"/proc/self/fd/{point}", "", MS_BIND, shown="/" + path)
        os.close(point)
        root.writable["/" + path] = False


def _show_secrets(root: Root, link: str) -> None:
    """`link`: where in shared memory they are, empty where the directory itself holds them."""
    if not link:
        root.keep("/secrets")
        return
    names = _names(link)
    # Walked from the top without following links, like every place that a task could have had its hands on.
    descriptor = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    for name in names:
        flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        following = os.open(name, flags, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = following
    root.bind(f"/proc/self/fd/{descriptor}", link, is_writable=True, is_foreign=False)
    os.close(descriptor)


# Rights --------------------------------------------------------------------------------------------------


def give_up_rights(rights: dict[str, Any]) -> None:
    """Keep the capabilities in `bounding` (root) or `ambient` (others), become the user, for good. Raises OSError."""
    for number in range(CAPABILITY_BITS):
        if number not in rights["bounding"] and LIBC.prctl(PR_CAPBSET_DROP, number, 0, 0, 0) < 0:
            break  # there are no more
    uid = rights["uid"]
    if uid is not None:
        os.setgroups(rights["groups"])
        os.setresgid(rights["gid"], rights["gid"], rights["gid"])
        call("prctl", LIBC.prctl, PR_SET_KEEPCAPS, 1, 0, 0, 0)
        os.setresuid(uid, uid, uid)
    ambient = rights["ambient"]
    _set_capabilities(rights["bounding"] if uid == 0 else ambient, inheritable=ambient)
    for number in ambient:
        call("an ambient capability", LIBC.prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number, 0, 0)
    call("no_new_privs", LIBC.prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _refuse_system_calls(bytes.fromhex(rights.get("filter", "")))


class _Program(ctypes.Structure):
    """`struct sock_fprog`."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def _refuse_system_calls(program: bytes) -> None:
    """For good, and for all that this process starts; needs no rights after no_new_privs. Raises OSError."""
    if program:
        filled = _Program(len(program) // INSTRUCTION_BYTES, program)
        address = ctypes.addressof(filled)
        call("a filter of system calls", LIBC.prctl, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, address, 0, 0)


def _set_capabilities(kept: Iterable[int], *, inheritable: Iterable[int]) -> None:
    mask, inherited = (sum(1 << number for number in numbers) for numbers in (kept, inheritable))
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    low = 0xFFFF_FFFF
    words = (mask & low, mask & low, inherited & low, mask >> 32, mask >> 32, inherited >> 32)
    call("capset", LIBC.capset, header, (ctypes.c_uint32 * 6)(*words))


# A trial -------------------------------------------------------------------------------------------------


def attempt(plan: dict[str, Any]) -> None:
    """Do all that a task needs, with a child that does nothing. Raises OSError with the reason."""
    holder = make(plan)
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            enter(holder, entered(plan))
            os.chdir("/")
            give_up_rights(plan)
        except BaseException as error:  # noqa: BLE001 (a forked child must not return into its parent's code)
            os.write(tell, str(error).encode() or b"failed")
        os._exit(0)
    os.close(tell)
    with open(told, "rb") as file:
        reason = file.read()
    os.waitpid(pid, 0)
    end(holder)
    if reason:
        raise OSError(reason.decode(errors="replace"))


def main() -> int:
    """Try it."""
    try:
        attempt(json.load(sys.stdin))
    except OSError as error:
        sys.stderr.write(error.strerror or str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""`swarmlet init`, `join`, `leave`, `agent`, `dev`: the life of this machine's agent."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from swarmlet.cli import program
from swarmlet.cli.connection import client, json_option
from swarmlet.cli.ending import discard
from swarmlet.cli.output import say, say_json, say_now, span, warn
from swarmlet.config import NodeConfig
from swarmlet.errors import InvalidInput, SwarmletError, Unavailable

# structlog loads rich, where it is installed, for tracebacks in colour: 5 MiB for ever in an agent that logs JSON.
sys.modules.setdefault("rich", None)  # type: ignore[arg-type]

if TYPE_CHECKING:
    from swarmlet.daemon import Daemon, Founding
    from swarmlet.joining.identity import DataDirectory

#: Where a detached agent writes its log.
LOG_FILE = "agent.log"
#: An agent that was started in the background answers within this time, or something is wrong.
READY_SECONDS = 30.0
POLL_SECONDS = 0.05
#: Leaving waits for consensus to forget the node, then for its tasks to end; each has 15 s.
LEAVE_SECONDS = 45.0
#: From its last answer to its end an agent takes well under a second, on a busy machine a few.
STOP_SECONDS = 15.0
#: The kernel's limit (sun_path in unix(7)), less its final zero.
SOCKET_PATH_BYTES_MAX = 107
DAY_NS = 86_400 * 10**9
#: Half a minute, for tests, to two years: beyond, nobody remembers how it is done when it fails.
CERTIFICATE_HOURS_MIN, CERTIFICATE_HOURS_MAX = 0.008, 17_520.0


def _agent_options(command: Any) -> Any:
    """Options that init, join and agent share; they end up in the node's configuration."""
    options = [
        click.option("--data-dir", default="", metavar="DIR", help="Where this node keeps its state."),
        click.option("--config", "config_file", default="", metavar="FILE", help="Configuration (TOML)."),
        click.option("--name", default="", help="This node's name (default: the host name)."),
        click.option("--advertise", default="", metavar="ADDR", help="Where other nodes reach this one."),
        click.option("--bind", default="", metavar="IP", help="Address to listen on (default: all)."),
        click.option(
            "--port", "mesh_port", type=int, default=None, help="Mesh port, TCP and UDP (default 4747)."
        ),
        click.option("--api-port", type=int, default=None, help="API port on loopback (default 4646)."),
        click.option("--datacenter", default="", help="Datacenter that jobs name (default dc1)."),
        click.option("--allow-raw-exec", is_flag=True, help="Let jobs run plain processes under root."),
        click.option("--no-docker", is_flag=True, help="Do not use a Docker Engine."),
        click.option(
            "--host-volume",
            "host_volumes",
            multiple=True,
            metavar="NAME=DIR",
            help="Offer a directory to jobs.",
        ),
        click.option(
            "--meta", multiple=True, metavar="KEY=VALUE", help="A fact that constraints can ask for."
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


_foreground = click.option(
    "--foreground", is_flag=True, help="Run the agent in this terminal, not as a unit of systemd."
)


def default_data_dir() -> str:
    """/var/lib/swarmlet for root, else a folder of the user's."""
    chosen = os.environ.get("SWARMLET_DATA_DIR")
    if chosen:
        return chosen
    if os.geteuid() == 0:
        return NodeConfig().data_dir
    base = os.environ.get("XDG_STATE_HOME") or str(Path("~/.local/state").expanduser())
    return os.path.join(base, "swarmlet")


def build_config(options: dict[str, Any], base: NodeConfig | None = None) -> NodeConfig:
    """The configuration file's values (or `base`), with the flags on top. Raises InvalidInput."""
    import msgspec

    from swarmlet.config import HostVolume, parse

    config = base or NodeConfig(data_dir=default_data_dir())
    if options["config_file"]:
        try:
            text = Path(options["config_file"]).read_text(encoding="utf-8")
        except OSError as error:
            raise InvalidInput(f"{options['config_file']}: {error.strerror}") from error
        config = parse(text, options["config_file"])
    changed: dict[str, Any] = {
        key: options[key]
        for key in ("data_dir", "name", "advertise", "bind", "datacenter")
        if options.get(key)
    }
    changed |= {key: options[key] for key in ("mesh_port", "api_port") if options.get(key) is not None}
    if options["allow_raw_exec"] or options["no_docker"]:
        drivers = config.drivers
        changed["drivers"] = msgspec.structs.replace(
            drivers,
            raw_exec=True if options["allow_raw_exec"] else drivers.raw_exec,
            docker=drivers.docker and not options["no_docker"],
        )
    if options["host_volumes"]:
        volumes = {}
        for item in options["host_volumes"]:
            name, path = _pair(item, "--host-volume", "NAME=DIR")
            volumes[name] = HostVolume(path=os.path.abspath(path))
        changed["host_volumes"] = {**config.host_volumes, **volumes}
    if options["meta"]:
        facts = dict(_pair(item, "--meta", "KEY=VALUE") for item in options["meta"])
        changed["meta"] = {**config.meta, **facts}
    config = msgspec.structs.replace(config, **changed)
    config = msgspec.structs.replace(config, data_dir=os.path.abspath(config.data_dir))
    _check_config(config)
    return config


def _check_config(config: NodeConfig) -> None:
    """What no agent could start with. Raises InvalidInput."""
    if not 0 < config.mesh_port < 65536:
        raise InvalidInput(f"mesh port {config.mesh_port}: expected 1 to 65535 (--port, or `mesh_port`)")
    if not -1 <= config.api_port < 65536:
        raise InvalidInput(f"API port {config.api_port}: expected 0 to 65535, or -1 for none (--api-port)")
    if not CERTIFICATE_HOURS_MIN <= config.certificate_hours <= CERTIFICATE_HOURS_MAX:
        raise InvalidInput(
            f"certificate_hours = {config.certificate_hours}: expected {CERTIFICATE_HOURS_MIN} to {CERTIFICATE_HOURS_MAX}"
        )
    if not _is_loopback(config.api_bind):
        raise InvalidInput(
            f"api_bind = {config.api_bind!r}: the API has no TLS yet and listens on loopback only; "
            "reach it from elsewhere through SSH, or on any other node"
        )
    socket_path = config.api_socket or os.path.join(config.data_dir, "api.sock")
    size = len(os.fsencode(socket_path))
    if size > SOCKET_PATH_BYTES_MAX:
        raise InvalidInput(
            f"{socket_path}: the path of a Unix socket has at most {SOCKET_PATH_BYTES_MAX} B, this one {size}; "
            "choose a shorter --data-dir, or set `api_socket`"
        )


def _is_loopback(host: str) -> bool:
    import ipaddress

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _pair(text: str, flag: str, expected: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise InvalidInput(f"{flag} {text}: expected {expected}")
    return name, value


def _host_name() -> str:
    import socket

    return socket.gethostname().split(".")[0]


@click.command()
@_agent_options
@click.option("--detach", is_flag=True, help="Run the agent in the background.")
@_foreground
@json_option
def init(detach: bool, foreground: bool, as_json: bool, **options: Any) -> int:
    """Make a cluster of this machine, and print the line that adds others.

    \b
    Example:  sudo swarmlet init --advertise 10.0.0.1
    """
    import msgspec

    from swarmlet.joining.founding import found
    from swarmlet.joining.identity import DataDirectory, load, save
    from swarmlet.network.address import advertised_address, is_unspecified

    config = build_config(options)
    directory = DataDirectory(Path(config.data_dir))
    with directory:
        existing = load(directory.path)
        if existing is not None:
            raise InvalidInput(
                f"{config.data_dir} belongs to node {existing.name} of cluster {existing.cluster[:8]} already: "
                f"start its agent with 'swarmlet agent --data-dir {config.data_dir}', or choose another --data-dir"
            )
        config = msgspec.structs.replace(config, name=config.name or _host_name())
        address = advertised_address(config, [])
        if is_unspecified(config.bind) and _is_loopback(address[0]):
            warn(
                f"this machine has no route to others and is told to them as {address[0]}, where none reaches it: "
                "name its address with --advertise"
            )
        founded = found(
            config.name,
            address[0],
            now=_wall_seconds(),
            random_bytes=os.urandom,
            certificate_hours=config.certificate_hours,
        )
        _check_ports(config)
        save(directory.path, founded.identity)
        from swarmlet.daemon import write_config

        write_config(directory.path, config)
        admin_file = directory.path / "admin.token"
        from swarmlet.joining.identity import write_atomically

        write_atomically(admin_file, founded.admin_token.encode() + b"\n")
        founding_file = directory.path / "founding"
        write_atomically(founding_file, msgspec.msgpack.encode(founded.settings))
    return _start(config, detach=detach, as_json=as_json, as_unit=not foreground)


@click.command()
@click.argument("target", metavar="TOKEN@HOST")
@_agent_options
@click.option("--detach", is_flag=True, help="Run the agent in the background.")
@_foreground
@json_option
def join(target: str, detach: bool, foreground: bool, as_json: bool, **options: Any) -> int:
    """Add this machine to a cluster; "-" reads the token from standard input.

    \b
    Example:  sudo swarmlet join swl1-...@10.0.0.1
    """
    import asyncio

    import msgspec

    from swarmlet.daemon import write_config
    from swarmlet.joining.client import enrol
    from swarmlet.joining.identity import DataDirectory, JoiningKey, load, save
    from swarmlet.joining.seeds import SEEDS_MAX, save_seeds
    from swarmlet.network.address import is_unspecified
    from swarmlet.security.token import parse_target
    from swarmlet.transport.peer import text

    if target == "-":
        target = sys.stdin.readline().strip()
    token, address = parse_target(target)
    config = build_config(options)
    config = msgspec.structs.replace(config, name=config.name or _host_name())
    directory = DataDirectory(Path(config.data_dir))
    started = time.monotonic()
    with directory:
        current = load(directory.path)
        if current is None:
            _check_ports(config)
        # (A directory that belongs to a node is refused whatever the key.)
        kept = JoiningKey(directory.path)
        enrolled = asyncio.run(
            enrol(
                token,
                address,
                name=config.name,
                key=kept.key,
                kept=kept,
                bind=config.bind,
                port=config.mesh_port,
                # Listening on one address only, this machine is reached there and nowhere else.
                advertise=config.advertise or ("" if is_unspecified(config.bind) else config.bind),
                now=_wall_seconds,
                current=current,
            )
        )
        config = msgspec.structs.replace(config, advertise=text(enrolled.advertise))
        save(directory.path, enrolled.identity)
        write_config(directory.path, config)
        members = [(item.host, item.port) for item in enrolled.members]
        save_seeds(directory.path, [*members[: SEEDS_MAX - 1], address])
    for warning in enrolled.warnings:
        warn(warning)
    until = time.strftime("%Y-%m-%d", time.gmtime(enrolled.certificate_until))
    if not as_json:
        say_now(f"CA ok · tcp ok · udp ok · certificate until {until}")
    return _start(config, detach=detach, as_json=as_json, as_unit=not foreground, joined_at=started)


def _wall_seconds() -> float:
    return time.time_ns() / 1e9


def _check_ports(config: NodeConfig) -> None:
    """Both ports, before anything is written. Raises InvalidInput naming the port and who has it."""
    import errno
    import socket

    from swarmlet.network.port import owner_of

    for kind, name in ((socket.SOCK_STREAM, "TCP"), (socket.SOCK_DGRAM, "UDP")):
        family = socket.AF_INET6 if ":" in config.bind else socket.AF_INET
        with socket.socket(family, kind) as probe:
            if kind == socket.SOCK_STREAM:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((config.bind, config.mesh_port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise InvalidInput(
                        f"cannot listen on {config.bind} port {config.mesh_port} (mesh, {name}): "
                        f"{error.strerror}; see --bind and --port"
                    ) from error
                raise InvalidInput(
                    f"cannot listen on {config.bind} port {config.mesh_port} (mesh, {name}): taken by "
                    f"{owner_of(config.mesh_port, name.lower())}; stop it, or choose another with --port"
                ) from error
    _check_api_port(config)


def _check_api_port(config: NodeConfig) -> None:
    import socket

    if config.api_port <= 0:
        return
    family = socket.AF_INET6 if ":" in config.api_bind else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((config.api_bind, config.api_port))
        except OSError as error:
            from swarmlet.network.port import owner_of

            raise InvalidInput(
                f"cannot listen on {config.api_bind}:{config.api_port} (API): taken by {owner_of(config.api_port)}; "
                f"stop it, or choose another with --api-port"
            ) from error


@click.command()
@_agent_options
@click.option("--detach", is_flag=True, help="Run in the background.")
@json_option
def agent(detach: bool, as_json: bool, **options: Any) -> int:
    """Run this machine's agent. `init` and `join` have made its data directory.

    \b
    Example:  swarmlet agent --data-dir /var/lib/swarmlet
    """
    from swarmlet.daemon import read_config

    data_dir = os.path.abspath(options["data_dir"] or default_data_dir())
    base = read_config(Path(data_dir))
    if base is None and not (Path(data_dir) / "identity").exists():
        raise InvalidInput(
            f"{data_dir} holds no node: make a cluster with 'swarmlet init', or join one with 'swarmlet join'"
        )
    options["data_dir"] = data_dir
    config = build_config(options, base)
    return _start(config, detach=detach, as_json=as_json, as_unit=False)


@click.command()
@click.option("--api-port", type=int, default=4646, help="API port on loopback.")
@click.option("--port", "mesh_port", type=int, default=4747, help="Mesh port.")
@click.option("--no-docker", is_flag=True, help="Do not use a Docker Engine.")
def dev(api_port: int, mesh_port: int, no_docker: bool) -> int:
    """A cluster of one in this terminal, its state in memory; ends, with its tasks, on Ctrl-C.

    \b
    Example:  swarmlet dev
    """
    import tempfile

    from swarmlet.config import DriverSwitches
    from swarmlet.joining.founding import found
    from swarmlet.joining.identity import DataDirectory, save

    with (
        tempfile.TemporaryDirectory(prefix="swarmlet-dev-") as folder,
        DataDirectory(Path(folder)) as directory,
    ):
        config = NodeConfig(
            data_dir=folder,
            name=_host_name(),
            bind="127.0.0.1",
            mesh_port=mesh_port,
            api_port=api_port,
            api_socket=os.path.join(folder, "api.sock"),
            drivers=DriverSwitches(docker=not no_docker, raw_exec=True, docker_privileged=True),
            ephemeral=True,
        )
        founded = found(config.name, "127.0.0.1", now=_wall_seconds(), random_bytes=os.urandom)
        save(directory.path, founded.identity)
        from swarmlet.daemon import Founding

        def ready(daemon: Daemon) -> None:
            say_now(f"one node in memory, API on http://127.0.0.1:{api_port}; Ctrl-C ends it and its tasks")

        return _run(config, directory, Founding(settings=founded.settings, join_token_ttl_ns=DAY_NS), ready)


@click.command()
@json_option
@click.option("--data-dir", default="", metavar="DIR", help="The node's data directory.")
@click.pass_context
def leave(ctx: click.Context, as_json: bool, data_dir: str) -> int:
    """Take this machine out of its cluster: its work moves, its agent stops.

    \b
    Example:  sudo swarmlet leave
    """
    from swarmlet.cli import systemd

    ctx.find_root().obj["data_dir"] = data_dir
    api = client(ctx)
    answered = api.put("/v1/agent/leave", timeout=LEAVE_SECONDS)
    # Its last connections are closed and its files let go of after the answer; `join` may be the next command here.
    has_ended = False
    if api.address.startswith("unix://"):
        folder, name = os.path.split(api.address.removeprefix("unix://"))
        folder = os.path.abspath(folder if name == "api.sock" else data_dir or default_data_dir())
        systemd.disable(folder)
        has_ended = _wait_ended(os.path.join(folder, "lock"))
    if as_json:
        say_json(answered)
    else:
        say("left the cluster; the agent has stopped" if has_ended else "left the cluster; the agent stops")
    return 0


def _wait_ended(lock_path: str) -> bool:
    """Wait until no process holds a data directory's lock; False where that cannot be seen, or takes too long."""
    import fcntl

    deadline = time.monotonic() + STOP_SECONDS
    with contextlib.suppress(OSError), open(lock_path, "rb") as lock:
        while time.monotonic() < deadline:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(POLL_SECONDS)
            else:
                return True
    return False


# Starting.


def _start(
    config: NodeConfig, *, detach: bool, as_json: bool, as_unit: bool, joined_at: float | None = None
) -> int:
    """Run the agent: as a unit of systemd where there is one, in the background, or here."""
    from swarmlet.cli import systemd
    from swarmlet.joining.identity import DataDirectory

    # Another agent on this directory would answer in the place of ours.
    with DataDirectory(Path(config.data_dir)):
        pass
    if detach:
        return _detached(config, as_json=as_json, joined_at=joined_at)
    if as_unit and systemd.is_wanted(user=os.geteuid()):
        return _as_unit(config, as_json=as_json, joined_at=joined_at)
    with DataDirectory(Path(config.data_dir)) as directory:

        def ready(daemon: Daemon) -> None:
            _announce(config, daemon.first_token, as_json=as_json, joined_at=joined_at)
            if not as_json:
                say_now("the agent runs in this terminal; Ctrl-C stops it, its tasks run on")

        return _run(config, directory, _founding(directory.path), ready)


def _founding(path: Path) -> Founding | None:
    """What a fresh cluster's first agent has to submit; gone once it has."""
    import msgspec

    from swarmlet.daemon import Founding
    from swarmlet.model.cluster import ClusterSettings

    try:
        data = (path / "founding").read_bytes()
    except FileNotFoundError:
        return None
    return Founding(settings=msgspec.msgpack.decode(data, type=ClusterSettings), join_token_ttl_ns=DAY_NS)


def _run(config: NodeConfig, directory: DataDirectory, founding: Founding | None, ready: Any) -> int:
    """The agent, here. `ready(daemon)` says so to whoever began it."""
    from swarmlet.cli.logging import configure
    from swarmlet.daemon import Daemon, run_forever
    from swarmlet.joining.identity import load

    configure(config.log_level)
    identity = load(directory.path)
    if identity is None:
        raise InvalidInput(f"{config.data_dir} holds no node: run 'swarmlet init' or 'swarmlet join' first")

    def on_ready(daemon: Daemon) -> None:
        if daemon.first_token:
            with contextlib.suppress(FileNotFoundError):
                (directory.path / "founding").unlink()
            _write_first_token(directory.path, daemon.first_token)
        try:
            ready(daemon)
        except OSError:
            # Whoever began it does not listen, or its log's disk is full: it runs all the same.
            discard(sys.stdout)

    def build() -> Daemon:
        daemon = Daemon(config, identity, directory, founding=founding, on_ready=on_ready)
        daemon.tasks_end_with_agent = config.ephemeral
        return daemon

    try:
        run_forever(build)
    except* SwarmletError as errors:
        first: BaseException = errors
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None
    return 0


def _write_first_token(path: Path, token: str) -> None:
    """For the command that waits while the agent starts in the background; readable by root alone."""
    from swarmlet.joining.identity import write_atomically

    write_atomically(path / "join.token", token.encode())


def _announce(config: NodeConfig, token: str, *, as_json: bool, joined_at: float | None) -> None:
    from swarmlet.joining.identity import load

    identity = load(Path(config.data_dir))
    assert identity is not None
    seconds = "" if joined_at is None else f" in {time.monotonic() - joined_at:.1f} s"
    if as_json:
        say_json(
            {
                "ClusterID": identity.cluster,
                "NodeID": identity.node,
                "NodeName": identity.name,
                "DataDir": config.data_dir,
                "JoinToken": token,
                "AdminTokenFile": os.path.join(config.data_dir, "admin.token") if token else "",
            }
        )
        sys.stdout.flush()
        return
    if token:
        where = token.partition("@")[2]
        say_now(f"cluster {identity.cluster[:4]} ready on {where} (1 node, not fault tolerant)")
        say_now(f"add a machine:  swarmlet join {token}   (valid {span(DAY_NS)})")
        say_now(f"admin token in {os.path.join(config.data_dir, 'admin.token')}")
    else:
        say_now(f"{identity.name} ready{seconds}")


def _detached(config: NodeConfig, *, as_json: bool, joined_at: float | None) -> int:
    """Start the agent in a session of its own and wait until it answers."""
    log_path = os.path.join(config.data_dir, LOG_FILE)
    is_new = _is_new(config)
    with open(log_path, "ab") as output:
        process = subprocess.Popen(
            [*program.command(), "agent", "--data-dir", config.data_dir],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd="/",
            env=program.environment(),
        )
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise Unavailable(f"the agent ended with code {process.returncode}: {_last_line(log_path)}")
        token = _first_token(config) if is_new else ""
        if _answers(config, process.pid) and (token or not is_new):
            _announce(config, token, as_json=as_json, joined_at=joined_at)
            if not as_json:
                say(f"the agent runs in the background (pid {process.pid}), log in {log_path}")
            return 0
        time.sleep(POLL_SECONDS)
    raise Unavailable(
        f"the agent (pid {process.pid}) did not answer within {READY_SECONDS:g} s; see {log_path}"
    )


def _is_new(config: NodeConfig) -> bool:
    """Whether the agent that is about to start makes the cluster; a token of an earlier one's is removed then."""
    if not os.path.exists(os.path.join(config.data_dir, "founding")):
        return False
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(config.data_dir, "join.token"))
    return True


def _first_token(config: NodeConfig) -> str:
    """What a new cluster's agent wrote down for other machines; empty before it did."""
    with contextlib.suppress(FileNotFoundError):
        return Path(config.data_dir, "join.token").read_text(encoding="utf-8")
    return ""


def _answers(config: NodeConfig, pid: int = 0) -> bool:
    """Whether the agent (with that process id, where known) answers on its socket."""
    from swarmlet.api.client import Client

    path = config.api_socket or os.path.join(config.data_dir, "api.sock")
    if not os.path.exists(path):
        return False
    try:
        seen = Client(address=f"unix://{path}").get("/v1/agent/self", timeout=2.0)
    except SwarmletError:
        return False
    return not pid or bool(seen["stats"]["pid"] == pid)


def _last_line(path: str) -> str:
    with contextlib.suppress(OSError):
        lines = Path(path).read_text(encoding="utf-8", errors="replace").strip().splitlines()
        if lines:
            return lines[-1]
    return f"see {path}"


def _as_unit(config: NodeConfig, *, as_json: bool, joined_at: float | None) -> int:
    """Install and start a unit, then wait until the agent answers."""
    from swarmlet.cli import systemd

    is_new = _is_new(config)
    systemd.start(config.data_dir)
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and not _answers(config):
        time.sleep(POLL_SECONDS)
    if not _answers(config):
        raise Unavailable("the unit swarmlet.service does not answer; see: journalctl -u swarmlet")
    while time.monotonic() < deadline:
        if not os.path.exists(os.path.join(config.data_dir, "founding")):
            break
        time.sleep(POLL_SECONDS)
    token = _first_token(config) if is_new else ""
    _announce(config, token, as_json=as_json, joined_at=joined_at)
    if not as_json:
        say("the agent runs as the unit swarmlet.service")
    return 0

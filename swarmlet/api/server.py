"""The HTTP server: TCP on loopback and a Unix socket, errors as sentences, one place that authorises.

A route is registered with the capability that it needs; a handler without one cannot be registered.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import grp
import os
from collections.abc import Awaitable, Callable, Mapping

import structlog
from aiohttp import web

from swarmlet.api import (
    agent,
    allocations,
    copying,
    deployments,
    evaluations,
    events,
    execution,
    forwarding,
    gossip_keyring,
    job_logs,
    jobs,
    keyring,
    membership,
    metrics,
    namespaces,
    nodes,
    operator,
    planning,
    purging,
    reach,
    scheduling,
    snapshots,
    system,
    tokens,
    usage,
    variables,
    volumes,
)
from swarmlet.api.context import CONTEXT, ApiContext
from swarmlet.api.direct import DirectServer, Problem
from swarmlet.api.route import Route, say_age
from swarmlet.api.streaming import send_whole
from swarmlet.errors import InvalidInput, InvalidJob, Overloaded, SwarmletError, Unauthorized
from swarmlet.ids import Namespace, RequestId
from swarmlet.security.access import Identity, authorize
from swarmlet.state.command import Applied, Body

log = structlog.get_logger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

#: A job file is at most 1 MiB; as JSON it may be larger.
BODY_BYTES_MAX = 4 * 1024 * 1024
#: A browser that was lured to loopback names another host; see `_refuse_foreign_hosts`.
LOCAL_HOSTS = frozenset({"127.0.0.1", "localhost", "[::1]", "swarmlet"})
SOCKET_GROUP = "swarmlet"
SHUTDOWN_SECONDS = 1.0
#: No status of HTTP: it never reaches anybody.
CLIENT_LEFT = 499
#: Of an error in a header.
MESSAGE_CHARS_MAX = 1000
#: Connections that the kernel finished and we have not accepted: all who follow something here begin again at once after
#: a restart, and a client of the socket that finds it full is refused (EAGAIN), it does not wait.
BACKLOG = 1024

ROUTES: tuple[Route, ...] = (
    *planning.ROUTES,
    *jobs.ROUTES,
    *job_logs.ROUTES,
    *allocations.ROUTES,
    *reach.ROUTES,
    *copying.ROUTES,
    *execution.ROUTES,
    *forwarding.ROUTES,
    *evaluations.ROUTES,
    *deployments.ROUTES,
    *nodes.ROUTES,
    *purging.ROUTES,
    *namespaces.ROUTES,
    *tokens.ROUTES,
    *variables.ROUTES,
    *volumes.ROUTES,
    *operator.ROUTES,
    *keyring.ROUTES,
    *scheduling.ROUTES,
    *system.ROUTES,
    *snapshots.ROUTES,
    *agent.ROUTES,
    *events.ROUTES,
    *gossip_keyring.ROUTES,
    *membership.ROUTES,
    *metrics.ROUTES,
    *usage.ROUTES,
)


def application(context: ApiContext) -> web.Application:
    """All routes, behind the checks that every request passes."""
    app = web.Application(middlewares=[_answer_errors, _refuse_foreign_hosts], client_max_size=BODY_BYTES_MAX)
    app[CONTEXT] = context
    app.on_response_prepare.append(say_age)
    for route in ROUTES:
        handler = _authorized(route)
        for method in route.methods:
            app.router.add_route(method, route.path, handler)
    return app


def _authorized(route: Route) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        context = request.app[CONTEXT]
        is_local = request.transport is not None and not request.transport.get_extra_info("peername")
        identity = context.identify(_token_in(request.headers), is_local)
        authorize(identity, route.capability, Namespace(request.query.get("namespace", "default")))
        request["identity"] = identity
        return await route.handler(request)

    return handle


@web.middleware
async def _answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        response = await handler(request)
        await send_whole(request, response)
    except SwarmletError as error:
        problem = _problem_of(error)
        headers = {**problem.headers, **_upgrade_headers(request, error)}
        return web.Response(status=problem.status, text=problem.text, headers=headers)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        reason = {
            404: f"no such path: {request.path}",
            405: f"{request.method} is not possible on {request.path}",
            413: f"the body exceeds {BODY_BYTES_MAX:_} B",
        }
        return _problem(error.status, reason.get(error.status, error.reason))
    except ConnectionResetError as error:
        if request.transport is not None and not request.transport.is_closing():
            raise
        # Nobody is there to be answered: what aiohttp makes of this answer ends without a word.
        log.info("api.client_left", method=request.method, path=request.path, reason=str(error))
        return web.Response(status=CLIENT_LEFT)
    except asyncio.CancelledError:
        raise
    except Exception as error:
        log.exception("api.request_failed", method=request.method, path=request.path)
        return _problem(500, f"internal error ({type(error).__name__}); the agent's log has the details")
    else:
        return response


def _upgrade_headers(request: web.Request, error: SwarmletError) -> dict[str, str]:
    """A client whose WebSocket is refused sees nothing but headers."""
    if "Upgrade" not in request.headers:
        return {}
    return {"X-Swarmlet-Message": _in_header(str(error))}


def _in_header(text: str) -> str:
    return " ".join(text.split())[:MESSAGE_CHARS_MAX].encode("ascii", "replace").decode()


def _problem_of(error: SwarmletError) -> Problem:
    """Plain text, as Nomad answers; our own client reads the kind from a header."""
    headers = {"X-Swarmlet-Error": type(error).__name__}
    if isinstance(error, Overloaded):
        headers["Retry-After"] = str(max(1, round(error.retry_after_seconds)))
        return Problem(429, str(error), headers)
    text = "\n".join(error.problems) if isinstance(error, InvalidJob) else str(error)
    if notes := getattr(error, "__notes__", ()):
        # What to do is said in terms of HTTP; our own client, which reads the header, says it in its own.
        headers["X-Swarmlet-Message"] = _in_header(text)
        text = "; ".join([text, *notes])
    return Problem(error.http_status, text, headers)


def _problem(status: int, message: str) -> web.Response:
    return web.Response(status=status, text=message, headers={"X-Swarmlet-Error": ""})


@web.middleware
async def _refuse_foreign_hosts(request: web.Request, handler: Handler) -> web.StreamResponse:
    _check_origin(request.headers.get("Host", ""), request.headers.get("Origin", ""))
    return await handler(request)


def _check_origin(host: str, origin: str) -> None:
    """A web page of elsewhere may make a browser talk to loopback; its Host or Origin tells."""
    name = _host_name(host)
    if name and name not in LOCAL_HOSTS:
        raise Unauthorized(f"the API listens on loopback only; host '{name}' is not this machine's loopback")
    if origin and _host_name(origin.partition("://")[2]) not in LOCAL_HOSTS:
        raise Unauthorized(f"requests from {origin} are refused")


def _token_in(headers: Mapping[str, str]) -> str:
    """The token that a request shows; header names in any case, or all in lower case."""
    token = headers.get("x-nomad-token", "")
    authorization = headers.get("authorization", "")
    if not token and authorization.startswith("Bearer "):
        return authorization.removeprefix("Bearer ")
    return token


class _Backend:
    """Implements `direct.Backend`."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context

    def identify(self, headers: Mapping[str, str], *, is_local: bool) -> Identity:
        _check_origin(headers.get("host", ""), headers.get("origin", ""))
        return self._context.identify(_token_in(headers), is_local)

    def propose(
        self,
        request: RequestId,
        body: Body,
        identity: Identity,
        answer: Callable[[Applied | SwarmletError], None],
    ) -> None:
        self._context.replica.propose(request, body, identity.name, answer)

    async def submit(self, request: RequestId, body: Body, identity: Identity) -> Applied:
        return await self._context.replica.submit(body, identity.name, request_id=request)

    def problem(self, error: SwarmletError) -> Problem:
        return _problem_of(error)


def _host_name(authority: str) -> str:
    """The host in "host:port"; an IPv6 address keeps its brackets."""
    return (
        authority
        if authority.endswith("]")
        else authority.partition("]")[0] + "]"
        if "]" in authority
        else authority.partition(":")[0]
    )


def give_to_group(socket_path: str, folder: str, *, name: str = SOCKET_GROUP) -> None:
    """Where this machine has the group, its members may connect, and pass through `folder` (if given) without listing it."""
    with contextlib.suppress(KeyError, PermissionError):
        group = grp.getgrnam(name).gr_gid
        os.chown(socket_path, -1, group)
        if folder:
            os.chown(folder, -1, group)
            os.chmod(folder, 0o710)  # noqa: S103 (to pass, not to list: the group may do everything through the socket)


class ApiServer:
    """Serves the application until cancelled."""

    def __init__(
        self,
        context: ApiContext,
        *,
        bind: str,
        port: int,
        socket_path: str,
        owner_of: Callable[[int], str],
        socket_folder: str = "",
    ) -> None:
        """`port` below zero: no TCP. `owner_of` names the process that holds a port.

        `socket_folder`: the data directory, where the socket is in it.
        """
        self._socket_folder = socket_folder
        self._owner_of = owner_of
        self._bind = bind
        self._port = port
        self._socket_path = socket_path
        self._runner = web.AppRunner(application(context), access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
        self._direct = DirectServer(
            variables.direct_routes(context), _Backend(context), self._other_protocol, life=context.mint()
        )
        self._listeners: list[asyncio.Server] = []

    def _other_protocol(self) -> asyncio.Protocol:
        assert self._runner.server is not None, "the runner is set up before anything listens"
        return self._runner.server()

    async def start(self) -> None:
        """Open both listeners. Raises InvalidInput naming the address and who may hold it."""
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._socket_path)
        # From the first moment on nobody but root's group may connect.
        before = os.umask(0o117)
        try:
            self._listeners.append(
                await loop.create_unix_server(self._direct, self._socket_path, backlog=BACKLOG)
            )
        finally:
            os.umask(before)
        give_to_group(self._socket_path, self._socket_folder)
        if self._port < 0:
            return
        try:
            self._listeners.append(
                await loop.create_server(self._direct, self._bind, self._port, backlog=BACKLOG)
            )
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise InvalidInput(
                f"cannot listen on {self._bind}:{self._port} (API): taken by {self._owner_of(self._port)}; "
                f"stop it, or set `api_port` (--api-port)"
            ) from error

    @property
    def port(self) -> int:
        """The TCP port in use, or 0."""
        for listener in self._listeners:
            for sock in listener.sockets:
                name = sock.getsockname()
                if isinstance(name, tuple):
                    return int(name[1])
        return 0

    async def run(self) -> None:
        """Serve until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                self._direct.group = group
                await asyncio.get_running_loop().create_future()
        finally:
            self._direct.group = None
            for listener in self._listeners:
                listener.close()
            self._direct.close()
            await self._runner.cleanup()

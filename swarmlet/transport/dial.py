"""Makes TCP connections, and keeps apart what a failure says about the other host."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import socket
from typing import cast

from swarmlet.transport.peer import Address


async def resolve(address: Address) -> list[tuple[socket.AddressFamily, Address]]:
    """The addresses behind `address`, as (family, (host, port)). Raises OSError when there are none."""
    host, port = address
    if not 0 < port < 65536:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    try:
        literal = ipaddress.ip_address(host)
    except ValueError:
        pass
    else:
        if "%" not in host:  # a scope id needs the resolver
            return [(socket.AF_INET6 if literal.version == 6 else socket.AF_INET, address)]
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except ValueError as error:  # bytes that can be no name
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL)) from error
    return [(family, cast("Address", where)) for family, _, _, _, where in found]


async def dial(address: Address) -> socket.socket:
    """A connected, non-blocking TCP socket. Raises OSError; the caller sets the time limit."""
    failure: OSError | None = None
    for family, where in await resolve(address):
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.get_running_loop().sock_connect(sock, where)
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise failure or OSError(f"{address[0]}: no address")


def reason(error: OSError) -> str:
    """What went wrong, in the system's words: the loops put an address where `strerror` should be."""
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return error.strerror or str(error) or ("timed out" if isinstance(error, TimeoutError) else repr(error))

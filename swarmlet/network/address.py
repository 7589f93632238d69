"""Which address of this machine the others reach it at."""

from __future__ import annotations

import socket

from swarmlet.config import NodeConfig, parse_address

#: Any address that is routed tells which of ours is used; nothing is sent.
_PROBE_TARGET = ("192.0.2.1", 9)
_UNSPECIFIED = frozenset({"0.0.0.0", "::", ""})


def is_unspecified(bind: str) -> bool:
    """Whether a listening address stands for every address of the machine."""
    return bind in _UNSPECIFIED


def advertised_address(config: NodeConfig, seeds: list[tuple[str, int]]) -> tuple[str, int]:
    """(host, port) to tell others: the configured one, else ours on the route to the cluster, else loopback."""
    if config.advertise:
        return parse_address(config.advertise, config.mesh_port)
    if not is_unspecified(config.bind):
        return config.bind, config.mesh_port
    for target in (*seeds, _PROBE_TARGET):
        host = _address_towards(target)
        if host:
            return host, config.mesh_port
    return "127.0.0.1", config.mesh_port


def _address_towards(target: tuple[str, int]) -> str:
    family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            # Connecting a datagram socket only asks the routing table.
            probe.connect(target)
            return str(probe.getsockname()[0])
        except OSError:
            return ""

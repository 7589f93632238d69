"""The wire between the hosts: a bridge in a namespace of its own, and everything that can go wrong on it.

Cuts and losses are nftables rules on the bridge; delay and jitter are a user-space line (`delay_line`), because
not every kernel has netem. Host i hangs on port pI; while delayed, on port vI behind the line.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

from tests.testbed.delay_line import DelayLine
from tests.testbed.namespace import NetworkNamespace

#: One subnet per testbed: 10.77.0.0/24 to 10.77.199.0/24.
TESTBEDS_MAX = 200


class Network:
    """The network of one testbed. Faults name hosts by number and add up until `heal`."""

    def __init__(self) -> None:
        self._lock, self.subnet = _claim_subnet()
        #: Unique on this machine while this object lives, and tells a later run whose leftovers it sees.
        self.name = f"swl-{os.getpid()}-{self.subnet}"
        self.namespace = NetworkNamespace()
        self._attached: dict[int, NetworkNamespace] = {}
        self._cut: list[int] = []
        self._rules: list[str] = []
        self._line: DelayLine | None = None
        self.namespace.call(_disable_ipv6)
        self.namespace.links(["link add br0 type bridge", "link set br0 up", "link set lo up"])

    def address(self, number: int) -> str:
        """The IPv4 address of a host."""
        return f"10.77.{self.subnet}.{number}"

    def attach(self, number: int, host: NetworkNamespace) -> None:
        """Give a host its interface eth0, its address and its place on the bridge; an old cut of it holds."""
        # The hardware address is fixed: neighbours keep theirs over a power cycle, as with a real machine.
        hardware = f"02:00:0a:4d:{self.subnet:02x}:{number:02x}"
        host.links(
            [
                f"link add eth0 address {hardware} type veth peer name p{number} netns {self.namespace.path}",
                "link set lo up",
                f"addr add {self.address(number)}/24 dev eth0",
                "link set eth0 up",
            ],
            peers=(self.namespace,),
        )
        self._attached[number] = host
        if self._line is None:
            self.namespace.links([f"link set p{number} master br0"])
        else:
            self._insert_line(number)
        if number not in self._cut:
            self.link_up(number)

    def detach(self, number: int) -> None:
        """Take a host's interface away."""
        if self._attached.pop(number, None) is None:
            return
        if self._line is not None:
            self._line.remove(number)
            self.namespace.links([f"link del v{number}"])
        self.namespace.links([f"link del p{number}"])

    def link_down(self, number: int) -> None:
        """Pull the plug of one host."""
        self.namespace.links([f"link set p{number} down"])

    def link_up(self, number: int) -> None:
        """Put it back."""
        self.namespace.links([f"link set p{number} up"])

    # --- faults ----------------------------------------------------------------------------------------

    def cut(self, number: int) -> None:
        """Cut one host off from all others; its processes run on."""
        self._cut.append(number)
        self.link_down(number)

    def cut_between(self, first: int, second: int) -> None:
        """Nothing passes between two hosts, in either direction."""
        self.cut_one_way(first, second)
        self.cut_one_way(second, first)

    def cut_one_way(self, source: int, target: int) -> None:
        """Nothing but address resolution passes from source to target (else the way back would die with it)."""
        self._add(f"{_from(source)} {_to(target)} ether type != arp drop")

    def drop_udp(self, number: int) -> None:
        """No UDP to or from a host."""
        self._add(f"{_from(number)} meta l4proto udp drop", f"{_to(number)} meta l4proto udp drop")

    def drop_udp_one_way(self, source: int, target: int) -> None:
        """No UDP from source to target; the way back, and TCP, work."""
        self._add(f"{_from(source)} {_to(target)} meta l4proto udp drop")

    def drop_tcp(self, number: int) -> None:
        """No TCP to or from a host."""
        self._add(f"{_from(number)} meta l4proto tcp drop", f"{_to(number)} meta l4proto tcp drop")

    def lose(self, percent: int, number: int | None = None) -> None:
        """Lose this share of all IP packets that one host (or every host) sends."""
        sender = f"{_from(number)} " if number is not None else ""
        self._add(f"{sender}ether type ip numgen random mod 100 < {percent} drop")

    def delay(self, milliseconds: float, jitter: float = 0.0, *, seed: int = 0) -> None:
        """Hold every frame for this long, plus up to `jitter` ms more (which reorders), in each direction."""
        if self._line is None:
            self._line = DelayLine(seed)
            for number in self._attached:
                self._insert_line(number)
        self._line.set(milliseconds / 1000, jitter / 1000)

    def heal(self) -> None:
        """End every fault."""
        if self._rules:
            self._rules = []
            self._apply()
        if self._line is not None:
            self._line.close()
            self._line = None
            for number in self._attached:
                self.namespace.links([f"link del v{number}", f"link set p{number} master br0"])
        for number in self._cut:
            if number in self._attached:
                self.link_up(number)
        self._cut = []

    def close(self) -> None:
        """Let go of the bridge and the subnet."""
        if self._line is not None:
            self._line.close()
        self.namespace.close()
        self._lock.close()

    def _insert_line(self, number: int) -> None:
        """Move the port off the bridge: host - p - (the line) - u - v - bridge."""
        assert self._line is not None
        self.namespace.links(
            [
                f"link set p{number} nomaster",
                f"link add u{number} type veth peer name v{number}",
                f"link set u{number} up",
                f"link set v{number} master br0 up",
            ]
        )
        near, far = f"p{number}", f"u{number}"
        self._line.add(number, self.namespace.call(_opener(near)), self.namespace.call(_opener(far)))

    def _add(self, *rules: str) -> None:
        self._rules += rules
        self._apply()

    def _apply(self) -> None:
        """Replace the rules in one transaction."""
        body = "\n".join(self._rules)
        table = f"chain faults {{\ntype filter hook forward priority 0; policy accept;\n{body}\n}}"
        text = f"table bridge testbed\ndelete table bridge testbed\ntable bridge testbed {{\n{table}\n}}\n"
        self.namespace.run("nft", "-f", "-", stdin=text)


def _from(number: int) -> str:
    return f'iifname {{ "p{number}", "v{number}" }}'


def _to(number: int) -> str:
    return f'oifname {{ "p{number}", "v{number}" }}'


def _opener(interface: str) -> Callable[[], socket.socket]:
    return lambda: DelayLine.open(interface)


def _disable_ipv6() -> None:
    # The bridge itself has nothing to say; its router solicitations would only blur a capture.
    switch = Path("/proc/sys/net/ipv6/conf/default/disable_ipv6")
    if switch.exists():
        switch.write_text("1")


def _claim_subnet() -> tuple[socket.socket, int]:
    """Claim a number that no other testbed on this machine has: a socket name, which dies with its process."""
    for number in range(TESTBEDS_MAX):
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            claim.bind(f"\0swarmlet-testbed-{number}")
        except OSError:
            claim.close()
            continue
        return claim, number
    raise RuntimeError(f"{TESTBEDS_MAX} testbeds run on this machine: stop some")

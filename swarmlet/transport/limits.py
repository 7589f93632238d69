"""Every bound of the mesh transport, each with its reason. Tests make them small."""

from __future__ import annotations

from dataclasses import dataclass

from swarmlet.wire import MESSAGE_BYTES_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one server or client. Sizes in bytes, times in seconds."""

    #: A frame carries one message and a short head.
    frame_bytes_max: int = MESSAGE_BYTES_MAX + 4096
    #: What a stranger (no certificate, or not yet greeted) may make us buffer: a CSR and a token are below 4 KiB.
    stranger_frame_bytes_max: int = 64 * 1024
    #: TLS handshake, and after it the hello. Two round trips on a bad link, and a slow-loris is gone soon.
    handshake_seconds: float = 5.0
    #: Handshakes under way at once, each a millisecond or two of this thread: after a pause all of them go on in the same
    #: turn of the loop.
    handshakes_at_once: int = 16
    #: One that takes longer waits for its peer and not for us, and the next begins: slow peers keep nobody out.
    handshake_turn_seconds: float = 0.1
    #: Ten thousand nodes over five voters are 2,000 streams and as many requests at one voter.
    connections_max: int = 8192
    #: Connections that have not shown who they are. Enough for a whole rack reconnecting at once.
    strangers_max: int = 512
    #: How long a stranger may stay, and how much it may ask at once: joining is a handful of requests in turn.
    stranger_seconds: float = 60.0
    stranger_requests_max: int = 4
    #: One address cannot take all of `strangers_max`; a NAT with dozens of nodes still gets in.
    strangers_per_address_max: int = 64
    #: Requests of one peer that are worked on at once; beyond it the peer is told to slow down.
    requests_per_connection_max: int = 512
    #: Streams of one peer: its watches, and the logs its users follow.
    streams_per_connection_max: int = 256
    #: What a stream may send ahead of its reader: a few hundred log lines, a round trip at 100 MB/s over 10 ms.
    stream_window_bytes: int = 1024 * 1024
    #: Bytes a peer may leave unread before droppable messages are dropped and requests refused: four messages.
    write_buffer_bytes_max: int = 4 * MESSAGE_BYTES_MAX
    #: A ping after this silence; the connection ends after three times as long without a byte.
    keepalive_seconds: float = 5.0
    #: First and largest wait after a failed connection; the largest is below what failover may cost (5 s).
    backoff_seconds_min: float = 0.05
    backoff_seconds_max: float = 1.0
    #: One attempt for one-way messages: the kernel's own retries grow to seconds, a new attempt is sooner there
    #: when a host comes back.
    oneway_connect_seconds: float = 1.5
    #: One-way messages kept while their connection is being made: a vote and a few appends; the rest is dropped.
    pending_oneway_bytes_max: int = 1024 * 1024
    #: Pooled client connections; the least recently used idle one goes first.
    pool_max: int = 1024


#: What an estimate of a frame's head costs in the stream window, so that empty items are bounded too.
ITEM_OVERHEAD_BYTES = 64

"""What two hosts measure of the path from one to the other, for a table of links.

Each host of a pair measures its own way, with its own clock, and prints one `Pair` as JSON. What
was not measured is null or empty, and `reasons` says why. The standard library alone is used here,
since hosts measure before anything is installed on them; who reads a file checks it.

Format history
--------------
1
    First version.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

SCHEMA = 1

Part = Literal["all", "goodput", "transfers", "datagrams", "tcp"]
"""What a reason is about: everything, one part, or how TCP is set."""

LONGEST_GOODPUT = 5
"""By how much bulk data may take longer than asked, where round trips are long."""
WARM_S = 1.0
"""Seconds that all messages of one size on the warm connection may take, but for the first two."""
LEAST_IDLE_S, MOST_IDLE_S = 0.25, 3.0
"""Seconds that a connection is left idle before a message: more where TCP's timeout is longer."""
PATIENCE_S = 30
"""Seconds after which an end that sends or takes nothing counts as gone."""
SLOWEST_DATAGRAMS_S = 0.05
"""Seconds between two datagrams on a path however slow, unless more were asked for."""

_STRICT: Any = {"extra": "forbid", "allow_inf_nan": False}


@dataclass(frozen=True)
class Settings:
    """How much is measured of each ordered pair of hosts; the same for all pairs of a table.

    Parameters
    ----------
    goodput_s, goodput_mb
        Seconds and MB (a million bytes) of bulk data after which sending ends. Where 20 round trips
        take longer than these seconds, they count, up to five times as long.
    transfer_bytes
        Sizes of single transfers.
    warm_repeats, idle_repeats
        How often each size is sent, on a connection that has just been used and on an idle one.
    transfer_s
        Sizes that would take longer are left out.
    datagrams
        How many datagrams are sent.
    datagram_interval_s
        Seconds between two of them, more where the path is slow.
    patience_s
        How long a host waits for the other one.
    """

    goodput_s: float = 1.0
    goodput_mb: float = 200.0
    transfer_bytes: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000)
    warm_repeats: int = 10
    idle_repeats: int = 3
    transfer_s: float = 2.5
    datagrams: int = 200
    datagram_interval_s: float = 0.005
    patience_s: float = 15.0


@dataclass(frozen=True)
class Goodput:
    """Bulk data over TCP, as it came to the sink, on the sink's clock.

    `arrivals` are pairs of ns since the first data was there and bytes that had come by then.
    `sent_bytes` is what the source gave TCP, and `retransmitted_bytes` what TCP sent again.
    """

    __pydantic_config__ = _STRICT

    arrivals: tuple[tuple[int, int], ...]
    sent_bytes: int
    retransmitted_bytes: int


@dataclass(frozen=True)
class Transfer:
    """Single messages of one size, one at a time, each answered by one byte.

    Parameters
    ----------
    bytes
        Size of each message.
    idle
        Whether the connection had been idle for longer than TCP's retransmission timeout before
        each; else each follows the answer to the one before.
    ns
        From handing a message to TCP until its answer was there, on the source's clock.
    window_packets
        TCP's congestion window right after each message had been handed to it.
    reason
        Why the size was left out.
    """

    __pydantic_config__ = _STRICT

    bytes: int
    idle: bool
    ns: tuple[int, ...] = ()
    window_packets: tuple[int, ...] = ()
    reason: str | None = None


@dataclass(frozen=True)
class Datagrams:
    """UDP datagrams that the sink sent back, without duplicates.

    `sent` were sent, `arrived` came to the sink, and `round_trip_ns` holds the times of those that
    came back, in this order, on the source's clock.
    """

    __pydantic_config__ = _STRICT

    interval_ns: int
    sent: int
    arrived: int
    round_trip_ns: tuple[int, ...]


@dataclass(frozen=True)
class Facts:
    """The host that measured: its system, and how TCP is set there.

    `tcp` holds settings of the connection and, by their names below ``net``, of the host.
    """

    __pydantic_config__ = _STRICT

    kernel: str
    machine: str
    python: str
    paretopipe: str
    tcp: dict[str, str | int | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Pair:
    """What `source` measured of the way to `sink`.

    Parameters
    ----------
    source, sink
        Names of the hosts.
    started_unix_ns
        When the two had met, by the source's clock of the day.
    ping_ns
        Round trips of single small messages over TCP, before anything else was sent.
    reasons
        Why a part is missing, or what is to be known of it.
    """

    __pydantic_config__ = _STRICT

    source: str
    sink: str
    schema: int = SCHEMA
    started_unix_ns: int | None = None
    facts: Facts | None = None
    ping_ns: tuple[int, ...] = ()
    goodput: Goodput | None = None
    transfers: tuple[Transfer, ...] = ()
    datagrams: Datagrams | None = None
    reasons: dict[Part, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """A host of the table, and where the others reach it."""

    __pydantic_config__ = _STRICT

    name: str
    data_address: str
    data_port: int


@dataclass(frozen=True)
class Table:
    """What a table of links is to hold: the first file of its folder, ``links.json``.

    Parameters
    ----------
    hosts
        Its hosts.
    rounds
        The pairs that are measured one after the other; those of one round side by side. The first
        host of a pair awaits the control connection of the second.
    settings
        How much is measured of each pair.
    started_unix_ns
        When it was begun, by the controller's clock of the day.
    """

    __pydantic_config__ = _STRICT

    hosts: tuple[Place, ...]
    rounds: tuple[tuple[tuple[str, str], ...], ...]
    settings: Settings
    started_unix_ns: int
    schema: int = SCHEMA

    @property
    def side_by_side(self) -> bool:
        """Whether some pairs were measured at the same time."""
        return any(len(pairs) > 1 for pairs in self.rounds)

"""What the stages measure of the path between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import with_config


@with_config(extra="forbid", allow_inf_nan=False)
@dataclass(frozen=True)
class Transfer:
    """Single messages of one size over one hop, each sent after the path had been idle.

    `ns` holds the time of each message at the source, from sending to the end of the answer; on all
    other hops of the ring a small message travels. `hop` n leads from rank n to the next one.
    """

    hop: int
    bytes: int
    ns: tuple[int, ...]


@with_config(extra="forbid", allow_inf_nan=False)
@dataclass(frozen=True)
class Datagrams:
    """UDP datagrams sent around the ring one by one, at the data ports.

    `sent` and `received` are counts by hop, duplicates left out: their difference at a hop was lost
    there. `round_trip_ns` holds the times of the datagrams that came back.
    """

    interval_ns: int
    sent: tuple[int, ...]
    received: tuple[int, ...]
    round_trip_ns: tuple[int, ...]


@with_config(extra="forbid", allow_inf_nan=False)
@dataclass(frozen=True)
class Probe:
    """The path as the stages measured it with their own connections: a certificate of the link.

    On a link that follows a trace there is one probe for each certified segment, which the link
    holds meanwhile. Where packets are lost such a probe consists of datagrams alone.

    Parameters
    ----------
    after_points
        How many of the session's points, in the header's order, had been walked by then.
    round_trip_ns
        Round trips of small messages through all stages, several under way at once, timed at the
        source.
    goodput_mbit
        Tensor data per time by hop, the way back to the source last, once it had stopped growing,
        on the receiver's clock.
    transfers
        Single messages by size and hop; sizes that would take too long are left out.
    datagrams
        Null where the link has no random loss, jitter, reordering or duplication.
    segment
        Of the link's trace; null where it follows none.
    """

    after_points: int
    round_trip_ns: tuple[int, ...]
    goodput_mbit: tuple[float, ...]
    transfers: tuple[Transfer, ...]
    datagrams: Datagrams | None
    segment: int | None = None
    kind: Literal["probe"] = "probe"

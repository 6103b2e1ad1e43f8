"""What messages take: the wire by what was measured of the link, the software by what is left.

A session's probes tell the delay of the whole ring and the rate of each hop. What a point's latency
holds beside its stages and these is what the software takes, for a message and for a byte.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from analysis.prediction.costs import Hop
from analysis.run import Run
from paretopipe_worker.link.profiles import LinkSpec
from paretopipe_worker.plan.predict import WIRE_PER_PAYLOAD

_LEAST_MS, _SHARE = 0.05, 0.003
"""Standard deviation of what is left of a latency: milliseconds, and a share of the latency."""

_MESSAGE_MS = 1.0
_BYTE_MS, _BYTE_SHARE = 2e-7, 0.01
"""How large the software's parts may be: of a message, and of a byte beside its time on the wire.
"""


Ring: TypeAlias = tuple[tuple[Hop, ...], tuple[Hop | None, ...]]
"""The hops of a placement, and its ways back to rank 0 by rank; that of rank 0 is None."""


def by_profile(rate_mbit: float | None, delay_ms: float, software: Hop) -> Hop:
    """The hop that a profile asks for, with another hop's parts of the software.

    Parameters
    ----------
    rate_mbit
        Rate of the wire, Mbit/s; None for that of the other hop.
    delay_ms
        One-way delay, milliseconds.
    software
        The other hop.
    """
    ms_per_byte = asked_byte_ms(rate_mbit) if rate_mbit else software.ms_per_byte
    return Hop(delay_ms, ms_per_byte, software.message_ms, software.byte_ms)


def wires(run: Run, link: LinkSpec, hosts: tuple[str, ...]) -> Ring:
    """The wires of a placement on a link, without the software: hops, and ways back by rank.

    A way that no session of the run measured is what its profile asks for.
    """
    asked = [
        Hop(way.delay_ms, asked_byte_ms(way.rate_mbit)) for way in link.forward_path(len(hosts))
    ]
    forward: dict[int, list[Hop]] = {}
    back: dict[int, list[Hop]] = {}
    for sink, ring in _probed(run, link, hosts):
        for rank, hop in enumerate(ring[:-1]):
            forward.setdefault(rank, []).append(hop)
        back.setdefault(sink, []).append(ring[-1])
    hops = tuple(_median(forward.get(rank, [hop])) for rank, hop in enumerate(asked[:-1]))
    ways: list[Hop | None] = [None]
    for rank in range(1, len(hosts)):
        way = link.forward_path(rank + 1)[-1]
        ways.append(_median(back.get(rank, [Hop(way.delay_ms, asked_byte_ms(way.rate_mbit))])))
    return hops, tuple(ways)


def asked_byte_ms(rate_mbit: float | None) -> float:
    """For how long a wire is busy with a byte of tensor data, milliseconds; 0 without a rate."""
    return 8e-3 * WIRE_PER_PAYLOAD / rate_mbit if rate_mbit else 0.0


def _probed(
    run: Run, link: LinkSpec, hosts: tuple[str, ...]
) -> Iterator[tuple[int, tuple[Hop, ...]]]:
    """Each measurement of the path of a ring that a placement begins with: its sink and its hops.

    Probes tell the delay of the ring: what it has more than was asked for is spread over the hops.
    """
    sessions = {
        each.id: each.placement
        for each in run.plan.sessions
        if each.link == link.name and each.placement == hosts[: len(each.placement)]
    }
    probes = run.probes[(run.probes["rank"] == 0) & run.probes["session"].isin(sessions)]
    for probe in probes.to_dict("records"):
        ranks = len(sessions[probe["session"]])
        whole = len(probe["goodput_mbit"]) == ranks and all(probe["goodput_mbit"])
        if not whole or not probe["round_trip_ns"]:
            continue
        asked = [way.delay_ms for way in link.forward_path(ranks)]
        more_ms = (float(np.median(probe["round_trip_ns"])) / 1e6 - sum(asked)) / ranks
        yield (
            ranks - 1,
            tuple(
                Hop(max(0.0, delay_ms + more_ms), 8e-3 / rate_mbit)
                for delay_ms, rate_mbit in zip(asked, probe["goodput_mbit"], strict=True)
            ),
        )


def _median(hops: list[Hop]) -> Hop:
    """The median of each part."""
    delays, bytes_ms = zip(*((hop.delay_ms, hop.ms_per_byte) for hop in hops), strict=True)
    return Hop(float(np.median(delays)), float(np.median(bytes_ms)))


def software(tries: Mapping[str, NDArray[Any]], byte_ms: float) -> tuple[float, float]:
    """What the software takes for a message and for a byte, in milliseconds.

    Parameters
    ----------
    tries
        Columns ``left_ms`` (latency without stages and wires), ``messages``, ``bytes``,
        ``latency_median_ms`` and ``weight``, of tries at which something crossed.
    byte_ms
        What the wire takes for a byte.

    Returns
    -------
    0 each where there are no tries. They may be below 0: a wire that was idle lets a first packet
    pass at once.
    """
    if not len(tries["left_ms"]):
        return 0.0, 0.0
    prior_sd = np.array([_MESSAGE_MS, _BYTE_MS + _BYTE_SHARE * byte_ms])
    # In units of what they may be, so that both weigh alike.
    design = np.column_stack([tries["messages"], tries["bytes"]]) * prior_sd
    spread = _LEAST_MS + _SHARE * tries["latency_median_ms"]
    precision = tries["weight"] / spread**2
    left = tries["left_ms"]
    matrix = np.eye(2) + (design * precision[:, None]).T @ design
    found = np.linalg.solve(matrix, (design * precision[:, None]).T @ left) * prior_sd
    return float(found[0]), float(found[1])

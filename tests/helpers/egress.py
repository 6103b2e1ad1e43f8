"""What tests ask of a single host: conditions towards peers, or a trace."""

from __future__ import annotations

from paretopipe_worker.link.conditions import Condition, Engine, Way
from paretopipe_worker.link.traces import Timetable
from paretopipe_worker.shaping.egress import EgressSpec

PORT = 29400
PEER = "10.77.0.2"
BOTH = Condition(delay_ms=200, rate_mbit=5)

FAST, OPEN, SLOW = (
    Condition(rate_mbit=20, delay_ms=10),
    Condition(delay_ms=40),
    Condition(rate_mbit=2, delay_ms=80, loss_percent=1.5),
)
TIMES = Timetable((0, 5, 7.5), 10)
"""When the three conditions above follow one another in a trace."""


def towards(
    *conditions: Condition, peers: tuple[str, ...] = (), engine: Engine = "netem"
) -> EgressSpec:
    """Ask for a condition towards each peer, which are `PEER` and the addresses after it."""
    addresses = peers or tuple(f"10.77.0.{number}" for number in range(2, 2 + len(conditions)))
    ways = tuple(Way(*pair) for pair in zip(addresses, conditions, strict=True))
    return EgressSpec("asked", ways, (PORT,), engine)


def following(trace: tuple[Condition, ...], times: Timetable, engine: Engine) -> EgressSpec:
    """Ask for a trace towards one peer."""
    return EgressSpec("traced", (Way(PEER, trace[0], trace),), (PORT,), engine, times)

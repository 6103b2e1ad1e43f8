"""A run into which faults are injected, sweep after sweep, until it is complete."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Literal

from tests.chaos.grounds import Ground
from tests.chaos.invariants import Breach, Watched, breaches
from tests.chaos.strikes import ANNOUNCED, Kind, Strike
from tests.helpers.sweeps import Running
from tests.helpers.waiting import until

SWEEP_S = 900.0
"""Seconds after which a sweep hangs."""

MOST_SWEEPS = 12
"""Sweeps of a run into which faults are injected."""

# A point at which two sessions broke counts as failed: nothing tells these faults from those that
# the point itself causes.
RETRY = ("-e", "retry_failed=true")


@dataclass
class Struck:
    """A fault that was injected, and what came of it.

    Parameters
    ----------
    came
        Whether the session measured all its points in spite of it, or a later one did.
    seconds
        From the injection to the end of the session, or of the sweep.
    """

    strike: Strike
    came: Literal["survived", "resumed"]
    seconds: float
    found: list[Breach] = field(default_factory=list)


def torment(ground: Ground, name: str, kinds: deque[Kind], drawn: Random) -> Iterator[Struck]:
    """Inject faults into a run until none is left or the run is complete, then finish the run.

    Faults are taken from `kinds`; one that came too late is put back. Breaches that only show later
    are told with the last fault before.
    """
    ground.faults, run = len(kinds), Watched(ground, name)
    last: Struck | None = None
    for _ in range(MOST_SWEEPS):
        if not kinds or (run.seen and not run.points - run.seen.keys()):
            break
        for struck in _sweep(run, kinds, drawn):
            if last:
                yield last
            last = struck
    done = ground.start(name, *RETRY).wait(SWEEP_S)
    run.look()
    found = breaches(run, [], done, finished=True)
    if last:
        last.found += found
        yield last


def _sweep(run: Watched, kinds: deque[Kind], drawn: Random) -> Iterator[Struck]:
    """Sweep once, and inject a fault into each session while there are any."""
    ground, strikes, made = run.ground, list[Strike](), list[Struck]()
    running, number = ground.start(run.name, *RETRY), 0
    while kinds and (session := _announced(running, number)):
        strike = _strike(run, running, session, number, kinds.popleft(), drawn)
        run.look()
        began_s = time.monotonic()
        strike.carry_out()
        number += 1
        if strike.missed:
            kinds.append(strike.kind)
            continue
        strikes.append(strike)
        if strike.kind.ends_sweep:
            running.wait(SWEEP_S)
        strike.until(lambda: False, "the end of the session")
        run.look()
        struck = Struck(strike, _came(run, strike), time.monotonic() - began_s)
        struck.found += breaches(run, strikes)
        made.append(struck)
        if strike.kind.ends_sweep:
            break
    done = running.wait(SWEEP_S)
    run.look()
    if made:
        made[-1].found += breaches(run, strikes, done)
    yield from made


def _strike(
    run: Watched, running: Running, session: str, number: int, kind: Kind, drawn: Random
) -> Strike:
    """Choose victim and moment."""
    [planned] = [each for each in run.plan["sessions"] if each["id"] == session]
    source = run.ground.folder(planned["placement"][0], run.name)
    attempts = [int(path.name.split(".")[-2]) for path in source.glob(f"{session}.*.points")]
    return Strike(
        kind,
        run.ground,
        running,
        run.name,
        session,
        max(attempts),
        tuple(planned["placement"]),
        number,
        drawn,
    )


def _announced(running: Running, number: int) -> str | None:
    """Wait until so many sessions were announced, and the next one is; None if none comes."""

    def found() -> list[str | None]:
        ended = running.process.poll() is not None
        return [*ANNOUNCED.findall(running.output)[number:], *([None] if ended else [])]

    announced: str | None = until(found, f"session {number + 1} of a sweep", SWEEP_S, 0.05)[0]
    return announced


def _came(run: Watched, strike: Strike) -> Literal["survived", "resumed"]:
    """Whether all points of the session are measured by now."""
    mine = {key for key in run.points if key[0] == strike.session}
    return "survived" if mine <= run.seen.keys() else "resumed"

"""A strike: a fault, the session in which it is injected, and what it waits for."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from tests.chaos.grounds import Ground
from tests.helpers.sweeps import Running
from tests.helpers.waiting import until

ANNOUNCED = re.compile(r"^  session \d+ of \d+: (\S+),", re.MULTILINE)
SESSION_S = 300.0
"""Seconds after which a session of the experiment hangs: each of its waits ends within a minute."""

MOMENTS = {"announced": 0, "header": 1, "ready": 1, "begin": 3, "item": 120, "point": 3}
"""What a strike waits for: so many lines, at most, of a kind in the records of the source."""


_LOOK_S = 0.05
"""Between two looks, which take a while: others share the machine's cores."""


class Missed(Exception):
    """The session was over before the fault could be injected."""


@dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Parameters
    ----------
    ground
        Where it is injected.
    weight
        How often it is drawn, among others.
    inject
        Injects it, and undoes what is not undone by the sweep.
    causes
        Regular expression for what the reason of a point says that it cost.
    ends_sweep
        Whether the sweep ends by it: then nothing more is injected into this one.
    """

    name: str
    ground: str
    weight: int
    inject: Callable[[Strike], None]
    causes: str
    ends_sweep: bool = False


@dataclass
class Strike:
    """One fault, at one moment of one session.

    Parameters
    ----------
    session, attempt, ring
        The session that is struck, and its hosts by rank.
    victim
        The host that is struck.
    number
        How many sessions of the sweep were announced before.
    moment
        A kind of lines, and how many of them the source has written by then.
    """

    kind: Kind
    ground: Ground
    running: Running
    run: str
    session: str
    attempt: int
    ring: tuple[str, ...]
    number: int
    drawn: Random
    victim: str = ""
    moment: tuple[str, int] = ("announced", 0)
    missed: bool = False
    noted: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.victim = self.drawn.choice(self.ring)
        lines = self.drawn.choice(list(MOMENTS))
        self.moment = lines, self.drawn.randint(min(1, MOMENTS[lines]), MOMENTS[lines])

    @property
    def name(self) -> str:
        """Name of the attempt, as its files have it."""
        return f"{self.session}.{self.attempt}"

    @property
    def told(self) -> str:
        """What was done, where and when, for people."""
        lines, count = self.moment
        return (
            f"{self.kind.name} on {self.victim}, run {self.run}, {self.name} "
            f"(rank {self.ring.index(self.victim)}), after {count} lines of kind {lines}"
        )

    @property
    def over(self) -> bool:
        """Whether the session has ended on the controller, or the sweep has."""
        if self.running.process.poll() is not None:
            return True
        if len(ANNOUNCED.findall(self.running.output)) > self.number + 1:
            return True
        noted = self.ground.results / self.run / "sessions.jsonl"
        line = f'["{self.session}"], "attempt": {self.attempt},'
        return noted.exists() and line in noted.read_text()

    def carry_out(self) -> None:
        """Wait for the moment, and inject the fault; note where it came too late."""
        lines, count = self.moment
        path = self.ground.folder(self.ring[0], self.run) / f"records/{self.name}.jsonl"
        sought = f'"kind":"{lines}"'.encode()
        self.until(
            lambda: not count or (path.exists() and path.read_bytes().count(sought) >= count),
            f"{count} lines of kind {lines} in {path}",
        )
        try:
            if self.over:
                raise Missed
            self.kind.inject(self)
        except (Missed, ProcessLookupError):
            self.missed = True

    def until(self, condition: Callable[[], object], what: str, deadline_s: float = 0) -> None:
        """Wait for something, or for the end of the session."""
        waited = deadline_s or SESSION_S
        until(lambda: condition() or self.over, f"{what}: {self.told}", waited, _LOOK_S)

    def process(self, role: str) -> int:
        """The victim's process of a role; it may not be there yet."""
        found: list[int] = []
        self.until(lambda: found.extend(self.pids(role)) or found, f"a {role}")
        if not found:
            raise Missed
        return found[-1]

    def pids(self, role: str) -> list[int]:
        """The victim's processes of a role."""
        return self.ground.pids(role, self.victim)

    def resent(self) -> int:
        """TCP segments that the victim has sent again."""
        heads, counts = (
            line.split()
            for line in self.ground.inside(self.victim, "cat", "/proc/net/snmp").splitlines()
            if line.startswith("Tcp:")
        )
        return int(counts[heads.index("RetransSegs")])

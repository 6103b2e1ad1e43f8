"""What the relay does to the packets of one way: netem's rules, in Python.

The rules and their order are those of ``netem_enqueue`` in Linux's ``net/sched/sch_netem.c`` with a
rate that is always given, as in `netem.asked`. Jitter is drawn from the tables that ``tc`` gives to
netem. Nothing here reads or sends a packet.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from pathlib import Path

from paretopipe_worker.link.conditions import Condition
from paretopipe_worker.link.counters import CountersFile
from paretopipe_worker.shaping import ShapingError, netem

QUEUE_PACKETS = 10_000
"""Packets that the relay queues for a way beyond what netem would."""

TOGETHER_NS = 1_000_000
"""How long a packet waits at most for those right behind it on the wire, to be sent with them.

Most of what a packet costs is waking up with cold caches, and that time is taken from the stages.
The last packet of a train is sent when it is due, and only then is what the train carries
complete."""

_TABLE_SCALE = 8192
_TABLES = ("/usr/lib/tc", "/usr/lib64/tc", "/usr/share/tc")


class WayQueue:
    """The packets to one peer, admitted as netem enqueues them and queued in order of departure.

    Packets between which the wire is never idle form a train. They are sent in groups.

    Parameters
    ----------
    mtu
        The data interface's, in bytes.
    seed
        Seed of the random draws.

    Attributes
    ----------
    queue
        When each packet is due, on `time.monotonic_ns`, and the packet.
    """

    def __init__(
        self, condition: Condition, mtu: int, counters: CountersFile, seed: int | None = None
    ) -> None:
        self.queue: deque[tuple[int, bytes]] = deque()
        self._frame = netem.frame_bytes(mtu)
        self._counters = counters
        self._random = random.Random(seed).random
        self._last_ns = 0
        self._first_ns = 0  # when the first packet of the last group is due
        self._groups: deque[int] = deque()  # when the last packet of each is due
        self.change(condition)

    def change(self, condition: Condition) -> None:
        """Apply another condition to the packets that come from now on; those queued stay as due.

        Raises
        ------
        ShapingError
            When the table of its distribution is not installed.
        """
        # TCP holds back before a kernel's own queue is full (tcp_small_queues), but a packet that
        # was handed to a TAP counts as sent. So a large tensor must fit here as a whole, or it
        # would be lost.
        self._limit = int(netem.printed(condition, self._frame)["limit"]) + QUEUE_PACKETS
        self._delay = _delays(condition, self._random)
        longest_ms = condition.delay_ms + netem.JITTER_REACH * condition.jitter_ms
        self._longest_ns = int(longest_ms * 1e6)
        self._ns_per_byte = 8e6 / netem.rate_kbit(condition)
        self._loss = condition.loss_percent / 100
        self._enter, self._leave = (
            condition.burst_loss_percent / 100,
            condition.burst_recovery_percent / 100,
        )
        self._in_burst = False
        self._duplicate = condition.duplicate_percent / 100
        self._reorder = condition.reorder_percent / 100

    def admit(self, frame: bytes, now_ns: int, may_double: bool = True) -> None:
        """Take a packet that came at `now_ns`: drop it, or queue it once or twice."""
        copies = 1
        if self._duplicate and may_double and self._random() < self._duplicate:
            copies += 1
        if self._lost():
            copies -= 1
            self._counters.lost()
        if copies and len(self.queue) >= self._limit:
            self._counters.overflowed()
            return
        if copies == 2:
            # As in netem, the copy goes first and is subject to all of these rules too.
            self.admit(frame, now_ns, may_double=False)
        if not copies:
            return
        if self._reorder and self._random() < self._reorder:
            self.queue.appendleft((now_ns, frame))
            self._groups.appendleft(now_ns)
            return
        # The rate counts from when packets were due, not from when they were sent: so the relay
        # catches up after it was late.
        free_ns, early_ns = self._last_ns, now_ns + self._delay()
        self._last_ns = max(early_ns, free_ns) + int(len(frame) * self._ns_per_byte)
        self.queue.append((self._last_ns, frame))
        follows = early_ns <= free_ns and self._last_ns - self._first_ns <= TOGETHER_NS
        if follows and self._groups:
            self._groups[-1] = self._last_ns
        else:
            self._groups.append(self._last_ns)
            self._first_ns = self._last_ns

    def next_ns(self) -> int | None:
        """Return when the next group is to be sent, which is when its last packet is due.

        None if no packet is queued.
        """
        groups = self._groups
        while groups and not (self.queue and groups[0] >= self.queue[0][0]):
            groups.popleft()
        return groups[0] if groups else None

    def can_wait(self, until_ns: int) -> bool:
        """Tell whether packets that come before `until_ns` lose nothing by being read only then."""
        return self._last_ns >= until_ns + self._longest_ns

    def _lost(self) -> bool:
        """Decide whether the next packet is lost: each by itself, or Gilbert's model in bursts."""
        if self._loss:
            return self._random() < self._loss
        if not self._enter:
            return False
        lost = self._in_burst
        if self._random() < (self._leave if lost else self._enter):
            self._in_burst = not lost
        return lost


def _delays(condition: Condition, chance: Callable[[], float]) -> Callable[[], int]:
    """Make a function that draws a packet's delay in nanoseconds."""
    mean_ns, jitter_ns = condition.delay_ms * 1e6, condition.jitter_ms * 1e6
    if not jitter_ns:
        return lambda: int(mean_ns)
    if condition.distribution == "uniform":
        return lambda: int(mean_ns + jitter_ns * (2 * chance() - 1))
    table = _table(condition.distribution)
    return lambda: max(0, int(mean_ns + jitter_ns * table[int(chance() * len(table))]))


def _table(distribution: str) -> list[float]:
    """Read a distribution as tc reads it for netem: deviations, in units of the jitter."""
    folders = [Path(folder) for folder in _TABLES] + sorted(Path("/usr/lib").glob("*/tc"))
    for folder in folders:
        path = folder / f"{distribution}.dist"
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines()
            words = [word for line in lines if line[:1] != "#" for word in line.split()]
            return [int(word) / _TABLE_SCALE for word in words]
    raise ShapingError(
        f"distribution {distribution}: no {distribution}.dist in {', '.join(map(str, folders))} "
        "(package iproute2)"
    )

"""The userspace relay: netem's part on a kernel without netem, for emulation on one machine.

Filters redirect the packets to each peer into a TAP device (`tc.apply_commands`). The relay reads
them there, does to them what netem would, and sends them out of the data interface past its
qdisc, so that no filter sees them twice. Like netem it shapes what its host sends, nothing else.
What runs through it is emulated, and is called so in the records.

Rules and their order are those of ``netem_enqueue`` in Linux's ``net/sched/sch_netem.c``, with a
rate that is always there, as in `netem.asked`. Tables of distributions are the ones ``tc`` gives
to netem.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import random
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from paretopipe_worker.host import timers
from paretopipe_worker.link.conditions import Condition
from paretopipe_worker.link.counters import CountersFile
from paretopipe_worker.shaping import interfaces, netem, tc
from paretopipe_worker.shaping.interfaces import Interface
from paretopipe_worker.shaping.tc import Shaping, ShapingError

TUN = Path("/dev/net/tun")

_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI = 0x0002, 0x1000
_SOL_PACKET, _PACKET_QDISC_BYPASS = 263, 20
_HEADER = 14 + 4
"""Bytes of an Ethernet header with a VLAN tag: what a frame has beyond the MTU."""
_QUEUE_PACKETS = 10_000
_READS = 64
"""Frames taken from one TAP before looking again at what is due."""
_TOGETHER_NS = 1_000_000
"""How long a packet waits at most for those right behind it on the wire, to be sent with them.

Most of what a packet costs is waking up with cold caches, and it is taken from the stages. The last
packet of a train is sent when it is due, and with it whatever the train carries is complete."""
_TABLE_SCALE = 8192
_TABLES = ("/usr/lib/tc", "/usr/lib64/tc", "/usr/share/tc")


class Egress:
    """The packets to one peer: admitted as netem enqueues, in order of departure in `queue`.

    Packets between which the wire is never idle are a train, and are sent in groups.

    Parameters
    ----------
    mtu
        Of the data interface, in bytes.
    seed
        Of the chances.

    Attributes
    ----------
    queue
        When each packet is due, on `time.monotonic_ns`, and the packet.
    """

    def __init__(
        self, condition: Condition, mtu: int, counters: CountersFile, seed: int | None = None
    ) -> None:
        self.queue: deque[tuple[int, bytes]] = deque()
        self._mtu = mtu
        self._counters = counters
        self._random = random.Random(seed).random
        self._last_ns = 0
        self._first_ns = 0  # when the first packet of the last group is due
        self._groups: deque[int] = deque()  # when the last packet of each is due
        self.change(condition)

    def change(self, condition: Condition) -> None:
        """Treat what comes from now on by another condition; what is queued goes when it is due."""
        # A kernel's own queue holds TCP back before it is full (tcp_small_queues); what was handed
        # to a TAP counts as sent, so that a large tensor lies here whole instead of being lost.
        self._limit = int(netem.printed(condition, self._mtu + 14)["limit"]) + _QUEUE_PACKETS
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
            # As netem has it: the copy goes through all of this too, and ahead.
            self.admit(frame, now_ns, may_double=False)
        if not copies:
            return
        if self._reorder and self._random() < self._reorder:
            self.queue.appendleft((now_ns, frame))
            self._groups.appendleft(now_ns)
            return
        # The rate runs on what was due, not on what was done: what is late is caught up with.
        free_ns, early_ns = self._last_ns, now_ns + self._delay()
        self._last_ns = max(early_ns, free_ns) + int(len(frame) * self._ns_per_byte)
        self.queue.append((self._last_ns, frame))
        follows = early_ns <= free_ns and self._last_ns - self._first_ns <= _TOGETHER_NS
        if follows and self._groups:
            self._groups[-1] = self._last_ns
        else:
            self._groups.append(self._last_ns)
            self._first_ns = self._last_ns

    def next_ns(self) -> int | None:
        """When the next packets are to be sent: the last of a group is due; None without any."""
        groups = self._groups
        while groups and not (self.queue and groups[0] >= self.queue[0][0]):
            groups.popleft()
        return groups[0] if groups else None

    def can_wait(self, until_ns: int) -> bool:
        """Whether what comes until then goes when it would go, even if it is read only then."""
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


class Relay:
    """The TAPs of a shaping, and the process's part in forwarding them.

    Made before the filters that redirect to its TAPs. They go when it is closed, or with the
    process, however it ends; filters that are still there then drop what they would redirect, so
    SSH stays but data stops until the link is shaped again or restored.

    Parameters
    ----------
    shaping
        What is asked for.
    interface
        The data interface, to send by.
    counters
        File for its counts.

    Raises
    ------
    ShapingError
        When TAP devices or packet sockets are missing or not permitted: which, and what helps.
    """

    def __init__(self, shaping: Shaping, interface: Interface, counters: Path) -> None:
        self._shaping = shaping
        self._counters = CountersFile(counters)
        self._frame = interface.mtu + _HEADER
        self._out = _sender(interface.name)
        self._ways = {
            _open_tap(tc.tap_name(index), interface.mtu): Egress(
                way.condition, interface.mtu, self._counters
            )
            for index, way in enumerate(shaping.ways)
        }

    def change(self, segment: int) -> None:
        """Go on by another segment of the shaping's trace."""
        for egress, way in zip(self._ways.values(), self._shaping.ways, strict=True):
            egress.change(way.trace[segment])

    def forward(self, seconds: float, wakes: Sequence[int] = ()) -> None:
        """Forward for so long, or until one of the descriptors `wakes` can be read.

        Raises
        ------
        OSError
            When a TAP cannot be read any more.
        """
        end_ns = time.monotonic_ns() + int(seconds * 1e9)
        while True:
            next_ns = self._send_due(end_ns)
            wait_ns = next_ns - time.monotonic_ns()
            if wait_ns <= 0 and next_ns == end_ns:
                return
            soon = wait_ns <= _TOGETHER_NS
            taps = [tap for tap, way in self._ways.items() if not (soon and way.can_wait(next_ns))]
            readable, _, _ = select.select((*taps, *wakes), (), (), max(0, wait_ns) / 1e9)
            if not set(wakes).isdisjoint(readable):
                return
            now_ns = time.monotonic_ns()
            for tap in self._ways:
                self._take(tap, now_ns)

    def close(self) -> None:
        """Take the TAPs away, and what is under way with them."""
        for tap in self._ways:
            os.close(tap)
        self._out.close()

    def _take(self, tap: int, now_ns: int) -> None:
        """Read what came through a TAP, up to a bound."""
        admit, size = self._ways[tap].admit, self._frame
        with contextlib.suppress(BlockingIOError):
            for _ in range(_READS):
                admit(os.read(tap, size), now_ns)

    def _send_due(self, next_ns: int) -> int:
        """Send what is due; return when to send next, at most `next_ns`."""
        clock = time.monotonic_ns
        for egress in self._ways.values():
            queue = egress.queue
            while queue and (late_ns := clock() - queue[0][0]) >= 0:
                try:
                    self._out.send(queue.popleft()[1])
                except OSError:  # no buffer, or the interface is down: lost, as on a card
                    self._counters.overflowed()
                else:
                    self._counters.forwarded(late_ns)
            next_ns = min(next_ns, egress.next_ns() or next_ns)
        return next_ns


def be_prompt() -> str:
    """Let this process wake up on time although the stages keep every core busy; say how.

    As a real-time process where that is allowed, else with the highest priority, else as it is.
    """
    gc.disable()  # packets make no cycles
    timers.be_exact()
    try:
        # Not for what this process starts, such as tc.
        policy = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
        os.sched_setscheduler(0, policy, os.sched_param(1))
    except PermissionError as error:
        why = f"real-time scheduling: {error.strerror}"
    else:
        return "real-time scheduling (SCHED_FIFO)"
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, -20)
    return f"nice {os.getpriority(os.PRIO_PROCESS, 0)} ({why})"


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


def require_tun() -> None:
    """Refuse, before anything is changed, to relay where there is no TAP device."""
    try:
        os.close(os.open(TUN, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        raise ShapingError(
            f"{TUN}: {error.strerror}; the userspace relay needs TAP devices (kernel module tun, "
            "and a user who may open that file)"
        ) from error


def _open_tap(name: str, mtu: int) -> int:
    """Make a TAP device that takes what an interface of this MTU would; it goes with its file."""
    require_tun()
    tap = os.open(TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(tap, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI))
        # What the kernel itself would send through it, such as multicast reports, is not ours.
        ipv6 = Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6")
        if ipv6.exists():
            ipv6.write_text("1")
        settings = ["mtu", str(mtu), "txqueuelen", str(_QUEUE_PACKETS), "arp", "off", "up"]
        interfaces.run(["ip", "link", "set", "dev", name, *settings])
    except OSError as error:
        os.close(tap)
        what = f"{TUN}: TAP device {name} cannot be made"
        raise interfaces.refusal(what, str(error.strerror)) from error
    except ShapingError:
        os.close(tap)
        raise
    return tap


def _sender(interface: str) -> socket.socket:
    """Open a socket that sends frames out of an interface past its qdisc, and receives none."""
    try:
        sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        sender.setsockopt(_SOL_PACKET, _PACKET_QDISC_BYPASS, 1)
        sender.bind((interface, 0))
    except OSError as error:
        raise interfaces.refusal(f"{interface}: no packet socket", str(error.strerror)) from error
    return sender

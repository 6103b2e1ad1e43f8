"""The userspace relay: netem's part on a kernel without netem, for emulation on one machine.

Filters redirect the packets to each peer into a TAP device (`tc.apply_commands`). The relay reads
them there, does to them what netem would (`way_queue`), and sends them out of the data interface
past its qdisc, so that no filter sees them twice. Like netem it shapes what its host sends and
nothing else. A link shaped by it is emulated, and the records call it so.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import select
import socket
import struct
import time
from collections.abc import Sequence
from pathlib import Path

from paretopipe_worker.host import timers
from paretopipe_worker.link.counters import CountersFile
from paretopipe_worker.shaping import ShapingError, interfaces, tc
from paretopipe_worker.shaping.egress import EgressSpec
from paretopipe_worker.shaping.interfaces import Interface
from paretopipe_worker.shaping.way_queue import QUEUE_PACKETS, TOGETHER_NS, WayQueue

TUN = Path("/dev/net/tun")

_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI = 0x0002, 0x1000
_SOL_PACKET, _PACKET_QDISC_BYPASS = 263, 20
_HEADER = 14 + 4
"""Bytes of an Ethernet header with a VLAN tag: what a frame may have beyond the MTU."""
_READS = 64
"""Frames taken from one TAP before looking again at what is due."""


class Relay:
    """The TAP devices of a host, and the process that forwards what comes through them.

    It must be made before the filters that redirect to its TAPs. The TAPs vanish when it is closed
    or when its process ends, however that happens. Filters that are left then drop what they would
    redirect: SSH goes on, but data stops until the link is shaped again or restored.

    Parameters
    ----------
    egress
        What is asked of this host.
    interface
        The data interface, on which packets are sent.
    counters
        File in which packets are counted.

    Raises
    ------
    ShapingError
        When TAP devices or packet sockets are missing or not permitted: which of them, and what
        helps.
    """

    def __init__(self, egress: EgressSpec, interface: Interface, counters: Path) -> None:
        self._egress = egress
        self._counters = CountersFile(counters)
        self._frame = interface.mtu + _HEADER
        self._out = _sender(interface.name)
        self._ways = {
            _open_tap(tc.tap_name(index), interface.mtu): WayQueue(
                way.condition, interface.mtu, self._counters
            )
            for index, way in enumerate(egress.ways)
        }

    def change(self, segment: int) -> None:
        """Go on with the conditions of another segment of the trace."""
        for queue, way in zip(self._ways.values(), self._egress.ways, strict=True):
            queue.change(way.trace[segment])

    def forward(self, seconds: float, wakes: Sequence[int] = ()) -> None:
        """Forward for `seconds`, or until one of the file descriptors `wakes` can be read.

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
            soon = wait_ns <= TOGETHER_NS
            taps = [tap for tap, way in self._ways.items() if not (soon and way.can_wait(next_ns))]
            readable, _, _ = select.select((*taps, *wakes), (), (), max(0, wait_ns) / 1e9)
            if not set(wakes).isdisjoint(readable):
                return
            now_ns = time.monotonic_ns()
            for tap in self._ways:
                self._take(tap, now_ns)

    def close(self) -> None:
        """Remove the TAPs, and with them the packets under way."""
        for tap in self._ways:
            os.close(tap)
        self._out.close()

    def _take(self, tap: int, now_ns: int) -> None:
        """Read the frames that came through a TAP, at most `_READS` of them."""
        admit, size = self._ways[tap].admit, self._frame
        with contextlib.suppress(BlockingIOError):
            for _ in range(_READS):
                admit(os.read(tap, size), now_ns)

    def _send_due(self, next_ns: int) -> int:
        """Send the packets that are due; return when to send next, `next_ns` at the latest."""
        clock = time.monotonic_ns
        for way in self._ways.values():
            queue = way.queue
            while queue and (late_ns := clock() - queue[0][0]) >= 0:
                try:
                    self._out.send(queue.popleft()[1])
                except OSError:  # no buffer, or the interface is down: lost, as on a real card
                    self._counters.overflowed()
                else:
                    self._counters.forwarded(late_ns)
            next_ns = min(next_ns, way.next_ns() or next_ns)
        return next_ns


def be_prompt() -> str:
    """Let this process wake up on time although the stages keep every core busy.

    It becomes a real-time process where that is allowed, else it gets the highest priority, else
    it stays as it is.

    Returns
    -------
    Which of these it is, as a text for the log.
    """
    gc.disable()  # packets make no reference cycles
    timers.be_exact()
    try:
        # The policy is not inherited by what this process starts, such as tc.
        policy = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
        os.sched_setscheduler(0, policy, os.sched_param(1))
    except PermissionError as error:
        why = f"real-time scheduling: {error.strerror}"
    else:
        return "real-time scheduling (SCHED_FIFO)"
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, -20)
    return f"nice {os.getpriority(os.PRIO_PROCESS, 0)} ({why})"


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
    """Make a TAP device for frames of this MTU; it vanishes when its file is closed."""
    require_tun()
    tap = os.open(TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(tap, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI))
        # The kernel shall not send anything of its own through it, such as multicast reports.
        ipv6 = Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6")
        if ipv6.exists():
            ipv6.write_text("1")
        settings = ["mtu", str(mtu), "txqueuelen", str(QUEUE_PACKETS), "arp", "off", "up"]
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

"""Faults of networks: a link that is down for a while, that loses frames, or damages them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import struct
import threading
from collections.abc import Iterator
from random import Random

from paretopipe_worker.shaping.relay import TUN
from tests.chaos.frames import Harm, flipped, forged, lost, payload_of
from tests.chaos.grounds import LocalLab
from tests.chaos.processes import RESENT, STALLED
from tests.chaos.strikes import Kind, Strike
from tests.helpers.namespaces import set_namespace

LOST, DAMAGED = 0.3, 0.02
"""Share of frames that a bad cable loses, or damages."""

MOST_HARMED = 60
"""Frames after which a cable is good again, at most."""

_TUNSETIFF, _TAP = 0x400454CA, 0x1002
_FRAME = 1 << 16


def cut(strike: Strike) -> None:
    """Take a host's port down until TCP has sent again what was lost, and bring it up."""
    before, port = strike.resent(), f"port{_number(strike)}"
    strike.ground.outside("ip", "link", "set", port, "down")
    try:
        strike.until(lambda: strike.resent() >= before + RESENT, "segments that were sent again")
    finally:
        strike.ground.outside("ip", "link", "set", port, "up")


def lose(strike: Strike) -> None:
    """Lose 30 % of the frames, until so many are lost."""
    _harm(strike, Cable(LOST, lost, strike.drawn))


def corrupt(strike: Strike) -> None:
    """Damage frames so that TCP notices: their checksums are wrong."""
    _harm(strike, Cable(DAMAGED, flipped, strike.drawn))


def forge(strike: Strike) -> None:
    """Damage what TCP carries and put its checksum right, so that the stages must notice."""
    _harm(strike, Cable(DAMAGED, forged, strike.drawn), most=3)


def _harm(strike: Strike, cable: Cable, most: int = MOST_HARMED) -> None:
    """Put a bad cable between a host and the bridge, until it has harmed enough frames."""
    count = strike.drawn.randint(1, most)
    with plugged(strike, cable):
        strike.until(lambda: cable.harmed >= count, f"{count} frames harmed by a cable")
    strike.noted.append(f"{cable.harmed} of {cable.frames} frames")


def _number(strike: Strike) -> int:
    """Number of the victim's port."""
    return strike.ground.hosts.index(strike.victim)


class Cable:
    """A cable between two TAP devices that harms a share of the frames in it.

    Parameters
    ----------
    share
        Share of frames with data that are harmed.
    harm
        Makes of a frame and a source of chance the harmed one; None where it is lost.
    """

    def __init__(self, share: float, harm: Harm, drawn: Random) -> None:
        self._share, self._harm, self._drawn = share, harm, drawn
        self.frames = self.harmed = 0
        self._taps: list[int] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._carry, daemon=True)

    def begin(self, names: tuple[str, str]) -> None:
        """Make the devices, in this thread's network, and carry frames between them."""
        for name in names:
            tap = os.open(TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            fcntl.ioctl(tap, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _TAP))
            self._taps.append(tap)
        self._thread.start()

    def end(self) -> None:
        """Take the devices away."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
        for tap in self._taps:
            os.close(tap)

    def _carry(self) -> None:
        """Carry frames, and harm some."""
        others = dict(zip(self._taps, reversed(self._taps), strict=True))
        while not self._over.is_set():
            for tap in select.select(self._taps, [], [], 0.05)[0]:
                # A device that is down takes nothing: what is sent to it is lost, too.
                with contextlib.suppress(OSError):
                    frame: bytes | None = os.read(tap, _FRAME)
                    if payload_of(frame or b""):
                        self.frames += 1
                        if self._drawn.random() < self._share:
                            frame = self._harm(bytearray(frame or b""), self._drawn)
                            self.harmed += 1
                    if frame is not None:
                        os.write(others[tap], frame)


@contextlib.contextmanager
def plugged(strike: Strike, cable: Cable) -> Iterator[None]:
    """Plug a host's port into a bridge of its own, which a cable joins to the others' bridge."""
    ground, port = strike.ground, f"port{_number(strike)}"
    assert isinstance(ground, LocalLab)
    with _inside(ground):
        cable.begin(("near", "far"))
    try:
        ground.outside("ip", "link", "add", "aside", "type", "bridge")
        for name, bridge in (("near", "bridge"), ("far", "aside"), (port, "aside")):
            ground.outside("ip", "link", "set", name, "master", bridge, "up")
        ground.outside("ip", "link", "set", "aside", "up")
        yield
    finally:
        ground.outside("ip", "link", "set", port, "master", "bridge")
        ground.outside("ip", "link", "delete", "aside")
        cable.end()


@contextlib.contextmanager
def _inside(ground: LocalLab) -> Iterator[None]:
    """Let this thread make devices where the bridge is."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        set_namespace(ground.lab.held["holder"])
        try:
            yield
        finally:
            set_namespace(home)
    finally:
        os.close(home)


KINDS = (
    Kind("link-down", "local", 12, cut, STALLED),
    Kind("lose-30-percent", "local", 8, lose, f"{STALLED}|items in phase .* before its maximum"),
    Kind("corrupt-frames", "local", 6, corrupt, STALLED),
    Kind("forge-frames", "local", 10, forge, r"."),
)

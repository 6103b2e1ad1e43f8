"""The bare wire: plain sockets between two processes, which no transport can be faster than."""

from __future__ import annotations

import contextlib
import json
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from paretopipe_worker.transport.connections import tune


class Wire:
    """A connection to another process, which answers as it is told."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link

    def exchange(self, there: int, back: int, count: int) -> float:
        """Median seconds of `there` bytes sent and `back` bytes returned, one at a time."""
        return statistics.median(self._times(there, back, count))

    def stream(self, size: int, count: int) -> float:
        """Seconds per message of `size` bytes, sent back to back."""
        self._tell(size * count, 1, 1)
        message = bytes(size)
        start = time.perf_counter()
        for _ in range(count):
            self._link.sendall(message)
        receive(self._link, bytearray(1))
        return (time.perf_counter() - start) / count

    def _times(self, there: int, back: int, count: int) -> list[float]:
        """Seconds of each exchange; a first one is not counted."""
        self._tell(there, back, count + 1)
        message, answer = bytes(there), bytearray(back)
        times = []
        for _ in range(count + 1):
            start = time.perf_counter()
            self._link.sendall(message)
            receive(self._link, answer)
            times.append(time.perf_counter() - start)
        return times[1:]

    def _tell(self, there: int, back: int, count: int) -> None:
        """Announce messages in a line of fixed length, and wait until the other end is ready."""
        self._link.sendall(json.dumps([there, back, count]).ljust(80).encode())
        receive(self._link, bytearray(1))


@contextlib.contextmanager
def wire(
    own: tuple[str, int] = ("127.0.0.1", 0),
    other_side: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
) -> Iterator[Wire]:
    """Start the other process on the other side of a link; it ends with the block.

    Parameters
    ----------
    own
        Where this process listens.
    other_side
        Lets this thread start processes on the other host.
    """
    with socket.create_server(own) as listener:
        address, port = listener.getsockname()
        words = [sys.executable, "-m", "tests.benchmarks.wire", address, str(port)]
        with other_side():
            child = subprocess.Popen(words)
        listener.settimeout(60)
        link, _ = listener.accept()
    tune(link)
    try:
        with link:
            yield Wire(link)
    finally:
        child.wait(timeout=30)


def receive(link: socket.socket, buffer: bytearray | memoryview) -> bool:
    """Fill the buffer; False when the other end is gone."""
    view, got = memoryview(buffer), 0
    while got < len(view):
        count = link.recv_into(view[got:])
        if count == 0:
            return False
        got += count
    return True


def _answer(address: str, port: int) -> None:
    """Be the other process: receive and answer as announced, until the connection ends."""
    with socket.create_connection((address, port), 60) as link:
        link.settimeout(None)
        tune(link)
        line = bytearray(80)
        while receive(link, line):
            there, back, count = json.loads(line)
            buffer, answer = bytearray(there), bytes(back)
            link.sendall(b"!")
            for _ in range(count):
                receive(link, buffer)
                link.sendall(answer)


if __name__ == "__main__":
    _answer(sys.argv[1], int(sys.argv[2]))

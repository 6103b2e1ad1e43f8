"""Rings of two ranks on the loopback address, for tests of what crosses a link."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from paretopipe_worker.transport import Endpoint, Transport, connect


def free_ports(count: int) -> list[int]:
    """TCP ports that nothing listens on now."""
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in listeners]


def endpoints(session: str = "test") -> tuple[Endpoint, Endpoint]:
    """Two ranks that are each other's neighbours."""
    first, second = (("127.0.0.1", port) for port in free_ports(2))
    return Endpoint(0, first, second, session), Endpoint(1, second, first, session)


@contextlib.contextmanager
def ring(backend: str) -> Iterator[tuple[Transport, Transport]]:
    """Two connected ranks of one process."""
    with ThreadPoolExecutor(2) as pool:
        pair = tuple(
            pool.map(lambda end: connect(backend, end, deadline_s=20), endpoints(), timeout=30)
        )
    try:
        yield pair[0], pair[1]
    finally:
        for transport in pair:
            transport.close()


@contextlib.contextmanager
def alongside(work: Callable[[], None]) -> Iterator[None]:
    """Run `work` in a thread while the block runs; its failure is the block's."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(work)
        yield
        future.result(timeout=60)


def threads_named(prefix: str) -> list[threading.Thread]:
    """Living threads by the start of their name."""
    return [thread for thread in threading.enumerate() if thread.name.startswith(prefix)]

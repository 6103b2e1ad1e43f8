"""Rings on the loopback address, for tests of what crosses a link."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
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
    with joined(backend, endpoints()) as (first, second):
        yield first, second


@contextlib.contextmanager
def joined(backend: str, ends: Sequence[Endpoint]) -> Iterator[list[Transport]]:
    """Ranks of one process, each connected to its neighbours."""
    with ThreadPoolExecutor(len(ends)) as pool:
        made = list(pool.map(lambda end: connect(backend, end, deadline_s=20), ends, timeout=30))
    try:
        yield made
    finally:
        for transport in made:
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

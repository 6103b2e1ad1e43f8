"""Strangers at the door: they learn nothing, end nothing, and keep nobody out."""

from __future__ import annotations

import contextlib
import resource
import socket
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Any

import pytest

from paretopipe_worker.transport import doorway, reaching
from paretopipe_worker.transport import handshake as shaking
from paretopipe_worker.transport.api import DeadlineExceeded
from paretopipe_worker.transport.handshake import Identity, SecretMismatch
from paretopipe_worker.transport.patience import Patience
from tests.helpers.rings import free_ports
from tests.transport.test_handshake import GREETING, NEIGHBOUR, OWN, SEAL_BYTES, WRONG

pytestmark = pytest.mark.slow


class Awaited:
    """A rank that waits for its neighbour in a thread."""

    def __init__(self, deadline_s: float) -> None:
        self.address = ("127.0.0.1", free_ports(1)[0])
        self.doorway = doorway.Doorway(self.address, OWN)
        self.patience = Patience(deadline_s)
        self.pool = ThreadPoolExecutor(1)
        self.admitted = self.pool.submit(self.doorway.admit, {0}, self.patience)

    def called(self) -> socket.socket:
        """A connection to it."""
        return socket.create_connection(self.address, timeout=20)

    def neighbour_comes(self) -> None:
        """The neighbour is admitted, whoever came before."""
        link, heard = reaching.reach(self.address, "127.0.0.1", NEIGHBOUR, {1}, Patience(20))
        link.close()
        assert heard.session == OWN.session
        taken, said = self.admitted.result(20)
        taken.close()
        assert said.rank == 0


@contextlib.contextmanager
def awaited(deadline_s: float = 30) -> Iterator[Awaited]:
    """A rank that waits for its neighbour."""
    waiting = Awaited(deadline_s)
    with waiting.pool, waiting.doorway:
        try:
            yield waiting
        finally:
            waiting.patience.give_up()
            wait([waiting.admitted])


def greeted(link: socket.socket, version: int = shaking.VERSION) -> bytes:
    """Exchange greetings as a caller; both of them."""
    mine = GREETING.pack(b"PPRH", version, b"n" * 32)
    link.sendall(mine)
    return mine + link.recv(GREETING.size, socket.MSG_WAITALL)


def rest(link: socket.socket) -> bytes:
    """All that still comes until the other end hangs up."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while part := link.recv(4096):
            found += part
    return found


def test_who_does_not_know_the_secret_learns_a_version_and_a_number() -> None:
    with awaited() as waiting:
        with waiting.called() as link:
            greetings = greeted(link)
            link.sendall(shaking._seal(replace(OWN, secret=WRONG), "caller", greetings))
            assert rest(link) == b""
        magic, version, nonce = GREETING.unpack(greetings[GREETING.size :])
        assert (magic, version, len(nonce)) == (b"PPRH", shaking.VERSION, 32)
        with waiting.called() as link:
            assert greeted(link)[GREETING.size :] != greetings[GREETING.size :], "one nonce twice"
        waiting.neighbour_comes()


def knows(own: Identity) -> Callable[[socket.socket], None]:
    """What somebody does who knows the secret and says to be this."""

    def act(link: socket.socket) -> None:
        greetings = greeted(link)
        link.sendall(shaking._seal(own, "caller", greetings))
        (size,) = struct.unpack("<H", link.recv(2, socket.MSG_WAITALL))
        text = link.recv(size + SEAL_BYTES, socket.MSG_WAITALL)[:size]
        link.sendall(shaking._said(own, "caller hello", greetings + text))

    return act


def says(data: bytes) -> Callable[[socket.socket], None]:
    """What somebody does who says this and nothing else."""
    return lambda link: link.sendall(data)


STRANGERS: dict[str, Callable[[socket.socket], Any]] = {
    "a port scan": says(b"GET / HTTP/1.0\r\nHost: nobody\r\nAccept: */*\r\n\r\n"),
    "one that says nothing": says(b""),
    "one that begins and hangs up": lambda link: (link.sendall(b"PPRH"), link.close()),
    "another version": lambda link: greeted(link, version=7),
    "a wrong proof": lambda link: (greeted(link), link.sendall(b"x" * SEAL_BYTES)),
    "a stage of another session": knows(replace(NEIGHBOUR, session="run/other.1")),
    "a rank that has no place": knows(replace(NEIGHBOUR, rank=5)),
    "another purpose": knows(replace(NEIGHBOUR, purpose="control")),
}


@pytest.mark.parametrize("name", STRANGERS)
def test_strangers_end_nothing_and_are_logged(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with awaited() as waiting, waiting.called() as stranger:
        STRANGERS[name](stranger)
        if name != "one that says nothing":
            assert rest(stranger) == b"" if stranger.fileno() >= 0 else True
        waiting.neighbour_comes()
    turned_away = [text for text in caplog.messages if text.startswith("turned away")]
    assert bool(turned_away) == (name != "one that says nothing"), caplog.messages
    assert all("127.0.0.1:" in text for text in turned_away)


@pytest.fixture
def many_files() -> Iterator[None]:
    """As many open files as this process may have."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("many_files")
def test_a_thousand_connections_keep_nobody_out() -> None:
    """One after the other, each would take its five seconds of the rendezvous."""
    says = [b"", b"PPRH", GREETING.pack(b"PPRH", shaking.VERSION, b"n" * 32)]
    with awaited(60) as waiting, contextlib.ExitStack() as stack:
        for number in range(1000):
            link = stack.enter_context(waiting.called())
            with contextlib.suppress(OSError):  # it may have had to leave already
                link.sendall(says[number % len(says)])
        waiting.neighbour_comes()
        assert len(waiting.doorway._guests) <= doorway._MOST_GUESTS


def test_one_that_is_silent_has_to_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doorway, "_HELLO_S", 0.2)
    with awaited() as waiting, waiting.called() as silent:
        assert rest(silent) == b""
        waiting.neighbour_comes()


def test_a_handshake_that_was_recorded_proves_nothing_the_next_time() -> None:
    with awaited() as waiting:
        with waiting.called() as link:
            greetings = greeted(link)
            proof = shaking._seal(OWN, "caller", greetings)
            link.sendall(proof)
            assert link.recv(1) != b"", "a right proof is answered"
        with waiting.called() as link:
            greeted(link)
            link.sendall(proof)
            assert rest(link) == b""


@pytest.mark.parametrize("changed", [b"", b"listener"])
def test_what_is_sent_back_to_where_it_came_from_proves_nothing(changed: bytes) -> None:
    """A caller is answered with its own greeting and its own proof."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        there = socket.create_connection(listener.getsockname(), timeout=10)
        here = listener.accept()[0]
    with here, there, ThreadPoolExecutor(1) as pool:
        calling = pool.submit(reaching.shake_hands, there, OWN, {2, 0}, Patience(20))
        here.settimeout(20)
        here.sendall(here.recv(GREETING.size, socket.MSG_WAITALL))
        proof = here.recv(SEAL_BYTES, socket.MSG_WAITALL)
        here.sendall(struct.pack("<H", len(changed)) + changed + proof)
        assert isinstance(calling.exception(timeout=20), SecretMismatch)


def test_a_hello_is_bounded_before_it_is_read() -> None:
    with awaited() as waiting, waiting.called() as link:
        greetings = greeted(link)
        link.sendall(shaking._seal(OWN, "caller", greetings))
        (size,) = struct.unpack("<H", link.recv(2, socket.MSG_WAITALL))
        link.recv(size + SEAL_BYTES, socket.MSG_WAITALL)
        link.sendall(struct.pack("<H", 60_000))
        assert rest(link) == b""


def test_a_neighbour_that_never_comes_is_named_with_who_was_turned_away() -> None:
    with awaited(deadline_s=1) as waiting, waiting.called() as scan:
        STRANGERS["a port scan"](scan)
        error = waiting.admitted.exception(timeout=20)
    assert isinstance(error, DeadlineExceeded)
    assert "the previous rank did not come" in str(error)
    assert "does not speak this protocol" in str(error)

"""Where a rank waits for others: it listens at its own address.

Whoever connects is a guest until the handshake (:mod:`.handshake`) has shown who it is. The
handshakes of all guests run side by side, so a guest that says nothing keeps nobody out. Each has a
few seconds, and where too many come, the one that has been there for longest has to leave.
"""

from __future__ import annotations

import contextlib
import logging
import selectors
import socket
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from paretopipe_worker.transport.api import TransportError
from paretopipe_worker.transport.connections import Joined, family, peer, tune
from paretopipe_worker.transport.handshake import (
    ADMITTED,
    Dialogue,
    HandshakeError,
    Hello,
    Identity,
    Stranger,
    answering,
    closed,
    judge,
    late,
    telling,
)
from paretopipe_worker.transport.patience import Patience

_HELLO_S = 5.0
"""Time that a guest has for the handshake."""
_MOST_GUESTS = 64
_BACKLOG = 128
_MOST_LOGGED = 20

_log = logging.getLogger(__name__)


@dataclass
class _Guest:
    """A connection whose handshake has not ended."""

    link: socket.socket
    where: str
    dialogue: Dialogue
    until_s: float
    wanted: int = 0
    got: bytearray = field(default_factory=bytearray)


class Doorway:
    """Listens at a rank's own address, and nowhere else, until the ``with`` block ends.

    Parameters
    ----------
    address
        Address and port.
    own
        What this rank says of itself to those who know the secret.

    Raises
    ------
    TransportError
        When the address is in use or not on this host.
    """

    def __init__(self, address: tuple[str, int], own: Identity) -> None:
        self._address, self._own = address, own
        self._guests: dict[socket.socket, _Guest] = {}
        self._turned_away = 0
        self._stranger: Stranger | None = None
        self._listener = _listening(address)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)

    def __enter__(self) -> Doorway:
        """Return this."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop listening."""
        self.close()

    def close(self) -> None:
        """Stop listening, and send all guests away."""
        for link in self._guests:
            link.close()
        self._guests.clear()
        self._selector.close()
        self._listener.close()
        if self._turned_away > _MOST_LOGGED:
            _log.warning("turned away %d strangers in all", self._turned_away)

    def admit(self, ranks: Collection[int], patience: Patience) -> Joined:
        """Wait for one of `ranks`, and turn strangers away.

        Raises
        ------
        DeadlineExceeded
            When none of them came; the text names the last stranger that was turned away.
        RunMismatch, SecretMismatch, VersionMismatch
            The same, where such a stranger came.
        SchemaMismatch, PlanMismatch, CutsMismatch, TorchMismatch, WeightsMismatch
            When a rank came that must not be worked with.
        """
        while patience.left_s > 0:
            for guest, hello in self._ended(patience.slice()):
                try:
                    judge(self._own, hello, ranks, guest.where)
                except HandshakeError as error:
                    self._leave(guest, error)
                    if not isinstance(error, Stranger):
                        raise
                else:
                    self._forget(guest)
                    guest.link.setblocking(True)
                    tune(guest.link)
                    # If it has gone meanwhile, whoever reads from it next finds out.
                    with contextlib.suppress(OSError):
                        guest.link.sendall(ADMITTED)
                    return guest.link, hello
        who = "the previous rank" if self._own.purpose == "ring" else f"rank {sorted(ranks)}"
        came = f"{who} did not come to {self._address[0]}:{self._address[1]}"
        text = f"{came}; turned away: {self._stranger}" if self._stranger else came
        raise late(text, self._stranger)

    def _ended(self, wait_s: float) -> Iterator[tuple[_Guest, Hello]]:
        """Go on with all handshakes for a moment; those that have ended well."""
        for key, _ in self._selector.select(wait_s):
            if key.fileobj is self._listener:
                self._welcome()
                continue
            guest = self._guests.get(key.data)
            # One that was there when the wait ended may have had to leave since.
            if guest is None:
                continue
            try:
                hello = self._hear(guest)
            except Stranger as error:
                self._leave(guest, error)
            else:
                if hello:
                    yield guest, hello
        now = time.monotonic()
        for guest in [each for each in self._guests.values() if each.until_s < now]:
            self._leave(guest, Stranger(f"{guest.where} did not say who it is in time"))

    def _welcome(self) -> None:
        """Let one more guest in."""
        try:
            link, _ = self._listener.accept()
        except OSError:  # It has gone again.
            return
        if len(self._guests) >= _MOST_GUESTS:
            oldest = next(iter(self._guests.values()))
            self._leave(oldest, Stranger(f"{oldest.where} was there for longest of too many"))
        link.setblocking(False)
        where = peer(link)
        dialogue = answering(self._own, where)
        guest = _Guest(link, where, dialogue, time.monotonic() + _HELLO_S)
        guest.wanted = _wanted(next(dialogue))
        self._guests[link] = guest
        self._selector.register(link, selectors.EVENT_READ, link)

    def _hear(self, guest: _Guest) -> Hello | None:
        """Read what has come from a guest, and answer; its hello, once the handshake has ended."""
        try:
            part = guest.link.recv(guest.wanted - len(guest.got))
            guest.got += part
            if not part:
                guest.dialogue.throw(closed(guest.where))
            while len(guest.got) == guest.wanted:
                said = guest.dialogue.send(bytes(guest.got))
                guest.got.clear()
                while isinstance(said, bytes):
                    if guest.link.send(said) < len(said):
                        raise Stranger(f"{guest.where} takes nothing")
                    said = next(guest.dialogue)
                guest.wanted = said
        except BlockingIOError:
            return None
        except OSError as error:
            raise Stranger(f"{guest.where} broke the connection: {error}") from error
        except StopIteration as ended:
            hello: Hello = ended.value
            return hello
        return None

    def _leave(self, guest: _Guest, error: HandshakeError) -> None:
        """Send a guest away."""
        self._forget(guest)
        guest.link.close()
        self._turned_away += 1
        if self._turned_away <= _MOST_LOGGED:
            _log.warning("turned away: %s: %s", type(error).__name__, error)
        if isinstance(error, Stranger):
            self._stranger = telling(self._stranger, error)

    def _forget(self, guest: _Guest) -> None:
        """Take a connection out of the handshakes."""
        del self._guests[guest.link]
        self._selector.unregister(guest.link)


def _wanted(said: bytes | int) -> int:
    """How many bytes a listener's handshake begins by reading."""
    assert isinstance(said, int)
    return said


def _listening(address: tuple[str, int]) -> socket.socket:
    """A socket that listens and does not block."""
    listener = socket.socket(family(address[0]), socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise TransportError(
            f"cannot listen at {address[0]}:{address[1]}: {error.strerror}; data_address must be "
            "an address of this host, and data_port and the port after it must be free"
        ) from error
    return listener

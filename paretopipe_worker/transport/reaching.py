"""How a rank reaches another one, which may not listen yet."""

from __future__ import annotations

import socket
import time
from collections.abc import Collection

from paretopipe_worker.transport.connections import Joined, family, peer, tune
from paretopipe_worker.transport.handshake import (
    TELLING,
    Dialogue,
    Hello,
    Identity,
    Stranger,
    calling,
    closed,
    late,
    telling,
)
from paretopipe_worker.transport.patience import Patience

_HELLO_S = 30.0
"""Time that a caller waits for the handshake before it calls again."""
_REFUSED_S, _STRANGER_S = 0.05, 0.25
"""Pauses before the next try: where nobody listens yet, and where a stranger listens."""


def reach(
    there: tuple[str, int], source: str, own: Identity, ranks: Collection[int], patience: Patience
) -> Joined:
    """Connect from `source` to one of `ranks`, which may not listen yet, and shake hands.

    Raises
    ------
    DeadlineExceeded
        When nobody listened until the deadline, or only strangers did.
    RunMismatch, SecretMismatch, VersionMismatch
        The same, where such a stranger listened.
    SchemaMismatch, PlanMismatch, CutsMismatch, TorchMismatch, WeightsMismatch
        When the rank must not be worked with.
    """
    reason: str = "no answer"
    stranger: Stranger | None = None
    while (left := patience.left_s) > 0:
        link = socket.socket(family(there[0]), socket.SOCK_STREAM)
        try:
            link.settimeout(left)
            link.bind((source, 0))
            link.connect(there)
            tune(link)
            return link, shake_hands(link, own, ranks, patience)
        except OSError as error:
            link.close()
            reason = error.strerror or str(error)
            # A refusal means that it does not listen yet, and no event tells when it will.
            patience.wait(_REFUSED_S)
        except Stranger as error:
            link.close()
            stranger, reason = telling(stranger, error), str(error)
            patience.wait(_STRANGER_S)
        except BaseException:
            link.close()
            raise
    if isinstance(stranger, TELLING):
        reason = str(stranger)  # A refusal may have come since, which says less.
    raise late(f"rank {own.rank} could not reach {there[0]}:{there[1]}: {reason}", stranger)


def shake_hands(
    link: socket.socket, own: Identity, ranks: Collection[int], patience: Patience
) -> Hello:
    """Authenticate the peer to which a connection was made, and return its hello.

    Raises
    ------
    Stranger
        When the peer is not one of `ranks`; another try may find it.
    HandshakeError
        When it is, and must not be worked with; see :func:`.handshake.calling`.
    """
    where, until = peer(link), time.monotonic() + _HELLO_S
    dialogue = calling(own, ranks, where)
    try:
        said: bytes | int = next(dialogue)
        while True:
            if isinstance(said, bytes):
                link.sendall(said)
                said = next(dialogue)
            else:
                said = dialogue.send(_read(link, said, dialogue, where, patience, until))
    except OSError as error:
        raise Stranger(f"{where} broke the connection: {error}") from error
    except StopIteration as ended:
        link.settimeout(None)
        heard: Hello = ended.value
        return heard


def _read(
    link: socket.socket,
    size: int,
    dialogue: Dialogue,
    where: str,
    patience: Patience,
    until: float,
) -> bytes:
    """Read exactly `size` bytes."""
    got = bytearray()
    while len(got) < size:
        if not patience.left_s or time.monotonic() > until:
            raise Stranger(f"{where} did not say who it is in time")
        link.settimeout(patience.slice())
        try:
            part = link.recv(size - len(got))
        except TimeoutError:
            continue
        if not part:
            dialogue.throw(closed(where))
        got += part
    return bytes(got)

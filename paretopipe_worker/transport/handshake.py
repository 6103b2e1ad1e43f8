"""How two ranks authenticate each other before the first tensor and the first command.

Each end says who it is and what it computes with, and proves that it knows the run's secret::

    caller                              listener
      hello: rank, nonce, agreement  ->
                                     <- hello: rank, nonce, agreement
      HMAC(secret, "caller", both)   ->
                                     <- HMAC(secret, "listener", both)

The proof covers both hellos, and so both nonces, ranks, agreements and the purpose. A message that
was recorded in another handshake, or that is sent back to its sender, therefore proves nothing.
Both ends check the same four messages in the same order and so find the same error. Neither the
secret nor anything that it could be derived from crosses. What crosses later is neither encrypted
nor signed, so an attacker who can change packets between two hosts is not kept out.

A stranger is a peer that speaks another protocol, belongs to another run, session or attempt, or
has an unexpected rank. Its connection is closed and the wait goes on. A peer that claims to be the
neighbour but disagrees, or does not know the secret, ends the session, since waiting cannot help.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import socket
import struct
import threading
import time
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, fields
from typing import Literal

from paretopipe_worker.transport.agreement import Agreement
from paretopipe_worker.transport.api import TransportError

VERSION = 2
_MAGIC = b"PPRH"
_HEAD = struct.Struct("<4sHH")  # magic, version, bytes of the text that follows
_MAX_TEXT_BYTES = 2048
_PROOF_BYTES = hashlib.sha256().digest_size
_POLL_S = 0.2

Role = Literal["caller", "listener"]
Purpose = Literal["ring", "control", "meeting"]


class HandshakeError(TransportError):
    """The peer must not be worked with."""


class Stranger(HandshakeError):
    """The peer does not speak this protocol, or is not the rank that was expected."""


class RunMismatch(Stranger):
    """The peer belongs to another run, session or attempt."""


class SchemaMismatch(HandshakeError):
    """The peer speaks another version of the protocol, or writes another record format."""


class SecretMismatch(HandshakeError):
    """The peer does not know the run's secret."""


class PlanMismatch(HandshakeError):
    """The peer has a plan that measures something else."""


class CutsMismatch(HandshakeError):
    """The peer has other points, splits or hops in its plan."""


class TorchMismatch(HandshakeError):
    """The peer computes with another version of torch."""


class WeightsMismatch(HandshakeError):
    """The peer computes with other weights."""


@dataclass(frozen=True)
class Identity:
    """Who one end of a connection is. Its ``repr`` does not show the secret."""

    purpose: Purpose
    rank: int
    session: str
    agreement: Agreement
    secret: bytes = field(repr=False)
    version: int = VERSION


@dataclass(frozen=True)
class Hello:
    """What the peer said of itself; `raw` is the message as it was received."""

    version: int
    raw: bytes
    rank: int
    purpose: str = ""
    session: str = ""
    agreement: Agreement = field(default_factory=Agreement)


class Patience:
    """How long to wait for the other ranks: until the deadline, or until a thread gives up."""

    def __init__(self, deadline_s: float) -> None:
        self._until = time.monotonic() + deadline_s
        self._given_up = threading.Event()

    @property
    def left_s(self) -> float:
        """Seconds until the deadline; 0 after :meth:`give_up`."""
        return 0.0 if self._given_up.is_set() else max(0.0, self._until - time.monotonic())

    def give_up(self) -> None:
        """End all waits, each within a fraction of a second."""
        self._given_up.set()

    def wait(self, seconds: float) -> None:
        """Sleep for so long, but no longer than the patience lasts."""
        self._given_up.wait(min(seconds, self.left_s))

    def slice(self) -> float:
        """Seconds that one call may block before it checks again whether a thread gave up."""
        return max(0.001, min(_POLL_S, self.left_s))


def shake_hands(
    link: socket.socket,
    role: Role,
    own: Identity,
    ranks: Collection[int],
    patience: Patience,
    limit_s: float,
) -> Hello:
    """Authenticate the peer of a new connection, and return its hello.

    Parameters
    ----------
    link
        The connection.
    role
        Which end of it this rank is.
    own
        What this rank says of itself.
    ranks
        Ranks that are expected at the other end.
    patience
        How long this rank waits for others; it may end the handshake early.
    limit_s
        Longest time that the whole handshake may take, in seconds.

    Raises
    ------
    Stranger, RunMismatch
        When the peer is not one that is expected; the caller may go on waiting.
    SchemaMismatch, SecretMismatch, PlanMismatch, CutsMismatch, TorchMismatch, WeightsMismatch
        When the peer claims to be the neighbour and must not be worked with.
    """
    until = time.monotonic() + limit_s
    where = peer(link)
    said = _say(own)
    try:
        if role == "caller":
            link.sendall(said)
        heard = _hear(link, where, patience, until)
        if role == "listener":
            link.sendall(said)
        _judge_claim(own, heard, ranks, where)
        hellos = (said, heard.raw) if role == "caller" else (heard.raw, said)
        link.sendall(_proof(own.secret, role, *hellos))
        theirs = _read(link, _PROOF_BYTES, where, patience, until)
    except OSError as error:
        raise Stranger(f"{where} broke the connection: {error}") from error
    other: Role = "listener" if role == "caller" else "caller"
    if not hmac.compare_digest(theirs, _proof(own.secret, other, *hellos)):
        raise SecretMismatch(
            f"{where} says it is rank {heard.rank} of {own.session}, but does not know the run's "
            "secret; all ranks of a launch must have the secret that its playbook made"
        )
    _judge_agreement(own.agreement, heard, where)
    link.settimeout(None)
    return heard


def peer(link: socket.socket) -> str:
    """Address and port of the peer, as errors name it."""
    try:
        name = link.getpeername()
    except OSError:
        return "a peer that is gone"
    return f"{name[0]}:{name[1]}"


def _say(own: Identity) -> bytes:
    """The hello of this rank, with a fresh nonce."""
    text = json.dumps(
        {
            "purpose": own.purpose,
            "rank": own.rank,
            "session": own.session,
            "nonce": secrets.token_hex(32),
            "agreement": asdict(own.agreement),
        }
    ).encode()
    return _HEAD.pack(_MAGIC, own.version, len(text)) + text


def _hear(link: socket.socket, where: str, patience: Patience, until: float) -> Hello:
    """Read the peer's hello; its size is checked before it is read."""
    head = _read(link, _HEAD.size, where, patience, until)
    magic, version, size = _HEAD.unpack(head)
    if magic != _MAGIC or size > _MAX_TEXT_BYTES:
        raise Stranger(f"{where} does not speak this protocol")
    text = _read(link, size, where, patience, until)
    try:
        said = json.loads(text)
        parts = {key: _text(said["agreement"].get(key)) for key in _AGREED}
        return Hello(
            version=version,
            raw=head + text,
            rank=_number(said["rank"]),
            purpose=_text(said["purpose"]),
            session=_text(said["session"]),
            agreement=Agreement(**parts),
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise Stranger(f"{where} sent something that is not a hello: {text[:60]!r}") from error


def _text(value: object) -> str:
    """A value of a hello that must be a string; an absent one is empty."""
    if value is not None and not isinstance(value, str):
        raise TypeError("not a text")
    return value or ""


def _number(value: object) -> int:
    """A value of a hello that must be an integer."""
    if type(value) is not int:
        raise TypeError("not a number")
    return value


def _read(link: socket.socket, size: int, where: str, patience: Patience, until: float) -> bytes:
    """Read exactly `size` bytes."""
    got = b""
    while len(got) < size:
        if not patience.left_s or time.monotonic() > until:
            raise Stranger(f"{where} did not say who it is in time")
        link.settimeout(patience.slice())
        try:
            part = link.recv(size - len(got))
        except TimeoutError:
            continue
        if not part:
            raise Stranger(f"{where} closed the connection before it had said who it is")
        got += part
    return got


def _proof(secret: bytes, role: Role, caller: bytes, listener: bytes) -> bytes:
    """The proof of one role in this handshake, which only a rank with the secret can compute."""
    digest = hashlib.sha256(caller).digest() + hashlib.sha256(listener).digest()
    return hmac.digest(secret, b"paretopipe handshake " + role.encode() + b"\0" + digest, "sha256")


def _judge_claim(own: Identity, heard: Hello, ranks: Collection[int], where: str) -> None:
    """Refuse a stranger, and a peer of another version, before proofs are exchanged."""
    if heard.session != own.session:
        raise RunMismatch(
            f"{where} belongs to {heard.session or 'no session'}, this rank to {own.session}; "
            "all ranks must belong to the same run, session and attempt"
        )
    if heard.version != own.version:
        raise SchemaMismatch(
            f"{where} speaks version {heard.version} of this protocol, this rank {own.version}; "
            "all hosts must have the same version of the worker package"
        )
    if heard.purpose != own.purpose or heard.rank not in ranks:
        raise Stranger(
            f"{where} comes as rank {heard.rank} for the {heard.purpose}, which is not whom rank "
            f"{own.rank} expects for the {own.purpose}"
        )


_AGREED: dict[str, tuple[type[HandshakeError], str]] = {
    "schema": (SchemaMismatch, "schema of records"),
    "plan": (PlanMismatch, "digest of the plan"),
    "cuts": (CutsMismatch, "digest of the planned cuts"),
    "torch": (TorchMismatch, "version of torch"),
    "weights": (WeightsMismatch, "checksum of the weights"),
}
assert set(_AGREED) == {part.name for part in fields(Agreement)}


def _judge_agreement(own: Agreement, heard: Hello, where: str) -> None:
    """Check that both ends record and compute the same."""
    for key, (mismatch, name) in _AGREED.items():
        here, there = getattr(own, key), getattr(heard.agreement, key)
        if here != there:
            raise mismatch(
                f"{where} (rank {heard.rank}) has {name} {there or 'none'}, this rank "
                f"{here or 'none'}; all ranks of a session must have the same"
            )

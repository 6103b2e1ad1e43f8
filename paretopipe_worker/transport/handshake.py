"""How two ranks make sure of each other, before the first tensor and the first command.

Each end says who it is and what it computes with, and proves that it knows the run's secret::

    caller                              listener
      hello: rank, nonce, agreement  ->
                                     <- hello: rank, nonce, agreement
      HMAC(secret, "caller", both)   ->
                                     <- HMAC(secret, "listener", both)

The proof covers both hellos, so both nonces, ranks, agreements and the purpose: what was recorded
in another handshake, or is sent back to where it came from, proves nothing. Both ends judge the
same four messages in the same order and so come to the same error. Neither secret nor anything it
could be found from crosses. What crosses later is neither encrypted nor signed: whoever can change
packets between two hosts is not kept out.

Who is a stranger is turned away and forgotten: one that does not speak this protocol, is of another
run, session or attempt, or not of the rank that is waited for. Who claims to be the neighbour and
disagrees, or does not know the secret, ends the session, since waiting would not mend it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import socket
import struct
import threading
import time
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Literal

from paretopipe_worker.transport.agreement import Agreement
from paretopipe_worker.transport.api import TransportError

VERSION = 2
_MAGIC = b"PPRH"
_HEAD = struct.Struct("<4sHH")  # magic, version, bytes of the text that follows
_MAX_TEXT_BYTES = 2048
_PROOF_BYTES = hashlib.sha256().digest_size
_POLL_S = 0.2
_MIN_SECRET_BYTES = 32

Role = Literal["caller", "listener"]
Purpose = Literal["ring", "control"]


class HandshakeError(TransportError):
    """The other end is not one to work with."""


class Stranger(HandshakeError):
    """The other end does not speak this protocol, or is not the rank that was waited for."""


class RunMismatch(Stranger):
    """The other end is of another run, session or attempt."""


class SchemaMismatch(HandshakeError):
    """The other end speaks another version of the protocol, or writes other records."""


class SecretMismatch(HandshakeError):
    """The other end does not know the run's secret."""


class PlanMismatch(HandshakeError):
    """The other end has a plan that measures something else."""


class CutsMismatch(HandshakeError):
    """The other end has other points, splits or hops in its plan."""


class TorchMismatch(HandshakeError):
    """The other end computes with another version of torch."""


class WeightsMismatch(HandshakeError):
    """The other end computes with other weights."""


class SecretFileError(ValueError):
    """The file of the run's secret cannot be used: which, and what is allowed."""


@dataclass(frozen=True)
class Identity:
    """Who one end of a connection is; the secret is in no text of it."""

    purpose: Purpose
    rank: int
    session: str
    agreement: Agreement
    secret: bytes = field(repr=False)
    version: int = VERSION


@dataclass(frozen=True)
class Hello:
    """What one end said of itself."""

    version: int
    raw: bytes
    rank: int
    purpose: str = ""
    session: str = ""
    agreement: Agreement = field(default_factory=Agreement)


class Patience:
    """How long to wait for the other ranks: until the deadline, or until somebody gives up."""

    def __init__(self, deadline_s: float) -> None:
        self._until = time.monotonic() + deadline_s
        self._given_up = threading.Event()

    @property
    def left_s(self) -> float:
        """Seconds that are left, none once it was given up."""
        return 0.0 if self._given_up.is_set() else max(0.0, self._until - time.monotonic())

    def give_up(self) -> None:
        """End every wait soon."""
        self._given_up.set()

    def wait(self, seconds: float) -> None:
        """Let a moment pass."""
        self._given_up.wait(min(seconds, self.left_s))

    def slice(self) -> float:
        """Seconds that one call may wait before it looks again whether somebody gave up."""
        return max(0.001, min(_POLL_S, self.left_s))


def read_secret(path: Path) -> bytes:
    """Read the run's secret.

    Raises
    ------
    SecretFileError
        When the file is not there, too short, another user's, or others may read it.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            secret = file.read(4096).strip()
    except OSError as error:
        raise SecretFileError(
            f"{path}: the run's secret cannot be read: {error.strerror}"
        ) from error
    if status.st_mode & 0o077:
        raise SecretFileError(
            f"{path}: has mode {status.st_mode & 0o777:04o}; the run's secret must be for its "
            "owner alone: 0600"
        )
    if status.st_uid != os.geteuid():
        raise SecretFileError(
            f"{path}: belongs to user {status.st_uid}; the run's secret must belong to the user "
            f"who runs the stage: {os.geteuid()}"
        )
    if len(secret) < _MIN_SECRET_BYTES:
        raise SecretFileError(
            f"{path}: holds {len(secret)} bytes; a secret has at least {_MIN_SECRET_BYTES}"
        )
    return secret


def shake_hands(
    link: socket.socket,
    role: Role,
    own: Identity,
    ranks: Collection[int],
    patience: Patience,
    limit_s: float,
) -> Hello:
    """Make sure of the other end of a fresh connection; return what it said.

    Parameters
    ----------
    ranks
        Who may be there.
    limit_s
        Longest time that the whole may take.

    Raises
    ------
    Stranger, RunMismatch
        When it is nobody to wait for; the caller may try again.
    SchemaMismatch, SecretMismatch, CutsMismatch, TorchMismatch, WeightsMismatch
        When it claims to be the neighbour and must not be worked with.
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
            f"{where} says it is rank {heard.rank} of {own.session} and does not know the run's "
            "secret; all ranks of a launch must have the secret that its playbook made"
        )
    _judge_agreement(own.agreement, heard, where)
    link.settimeout(None)
    return heard


def peer(link: socket.socket) -> str:
    """Address of the other end, as errors name it."""
    try:
        name = link.getpeername()
    except OSError:
        return "a peer that is gone"
    return f"{name[0]}:{name[1]}"


def _say(own: Identity) -> bytes:
    """The hello of one end, with a fresh nonce."""
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
    """The other end's hello, its size held against the limit before it is read."""
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
        raise Stranger(f"{where} said something that is no hello: {text[:60]!r}") from error


def _text(value: object) -> str:
    """A value of a hello, of which each is a text."""
    if value is not None and not isinstance(value, str):
        raise TypeError("not a text")
    return value or ""


def _number(value: object) -> int:
    """A rank, as a hello has it."""
    if type(value) is not int:
        raise TypeError("not a number")
    return value


def _read(link: socket.socket, size: int, where: str, patience: Patience, until: float) -> bytes:
    """Exactly `size` bytes."""
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
    """What only who knows the secret can say, of this handshake and in this role."""
    digest = hashlib.sha256(caller).digest() + hashlib.sha256(listener).digest()
    return hmac.digest(secret, b"paretopipe handshake " + role.encode() + b"\0" + digest, "sha256")


def _judge_claim(own: Identity, heard: Hello, ranks: Collection[int], where: str) -> None:
    """Tell a stranger, and who speaks another version, before any proof is asked for."""
    if heard.session != own.session:
        raise RunMismatch(
            f"{where} is of {heard.session or 'no session'}, this rank of {own.session}; "
            "all ranks must be of the same run, session and attempt"
        )
    if heard.version != own.version:
        raise SchemaMismatch(
            f"{where} speaks version {heard.version} of this protocol, this rank {own.version}; "
            "all hosts must have the same version of the worker package"
        )
    if heard.purpose != own.purpose or heard.rank not in ranks:
        raise Stranger(
            f"{where} comes as rank {heard.rank} for the {heard.purpose}, which is not who was "
            f"expected by rank {own.rank} for the {own.purpose}"
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
    """See that both ends compute the same thing."""
    for key, (mismatch, name) in _AGREED.items():
        here, there = getattr(own, key), getattr(heard.agreement, key)
        if here != there:
            raise mismatch(
                f"{where} (rank {heard.rank}) has {name} {there or 'none'}, this rank "
                f"{here or 'none'}; all ranks of a session must have the same"
            )

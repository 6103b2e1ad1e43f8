"""How two ranks authenticate each other before the first tensor and the first command.

Both ends prove that they know the run's secret, and only then say who they are and what they
compute with::

    caller                              listener
      greeting: version, nonce       ->
                                     <- greeting: version, nonce
      HMAC(secret, "caller", both)   ->
                                     <- hello, HMAC(secret, "listener", both, hello)
      hello, HMAC(secret, ...)       ->
                                     <- one byte: it is admitted

So a peer without the secret learns the protocol's version and a number that means nothing. Each
proof covers both greetings, and so both nonces: one that was recorded in another handshake, or that
is sent back to its sender, proves nothing. Neither the secret nor anything that it could be derived
from crosses. What crosses later is neither encrypted nor signed, so an attacker who can change
packets between two hosts is not kept out.

A stranger is a peer that speaks another protocol or version, does not know the secret, belongs to
another run, session or attempt, or has an unexpected rank. Its connection is closed and the wait
goes on: it can end nothing. A peer that knows the secret, claims to be the neighbour and disagrees
ends the session, since waiting cannot help.

This module reads and writes no socket: :func:`calling` and :func:`answering` are generators that
say what to send and how much to read next.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import struct
from collections.abc import Collection, Generator
from dataclasses import asdict, dataclass, field, fields
from typing import Literal, TypeAlias

from paretopipe_worker.transport.agreement import Agreement
from paretopipe_worker.transport.api import DeadlineExceeded, TransportError

VERSION = 3
_MAGIC = b"PPRH"
_GREETING = struct.Struct("<4sH32s")  # magic, version, nonce
_SIZE = struct.Struct("<H")
_MAX_TEXT_BYTES = 2048
_SEAL_BYTES = hashlib.sha256().digest_size
ADMITTED = b"+"
"""What a listener sends to a rank that it admits, last of all."""

Purpose = Literal["ring", "control", "meeting"]


class HandshakeError(TransportError):
    """The peer must not be worked with."""


class Stranger(HandshakeError):
    """The peer does not speak this protocol, or is not the rank that was expected."""


class VersionMismatch(Stranger):
    """The peer speaks another version of the protocol."""


class SecretMismatch(Stranger):
    """The peer does not know the run's secret."""


class RunMismatch(Stranger):
    """The peer belongs to another run, session or attempt."""


class SchemaMismatch(HandshakeError):
    """The peer writes another record format."""


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
    """What the peer said of itself."""

    rank: int
    purpose: str = ""
    session: str = ""
    agreement: Agreement = field(default_factory=Agreement)


Dialogue: TypeAlias = Generator[bytes | int, bytes, Hello]
"""One end of a handshake. It yields bytes that are to be sent, or how many are to be read, which it
is then given; it returns what the peer said. :class:`Stranger` is thrown into it where the peer
closes the connection."""


def calling(own: Identity, ranks: Collection[int], where: str) -> Dialogue:
    """The end of a handshake that made the connection, until it is admitted.

    Parameters
    ----------
    own
        What this rank says of itself.
    ranks
        Ranks that are expected at the other end.
    where
        What errors call the peer.

    Raises
    ------
    HandshakeError
        When the peer does not prove to be of this launch, or as :func:`judge`.
    """
    greetings = yield from _greet(own, where)
    try:
        yield _seal(own, "caller", greetings)
        heard, text = yield from _hear(own, "listener", greetings, where)
    except Stranger as error:
        # Who knows the secret answers; who has another one hangs up.
        if isinstance(error, SecretMismatch):
            raise
        raise SecretMismatch(_no_secret(where, str(error))) from error
    yield _said(own, "caller hello", greetings + text)
    judge(own, heard, ranks, where)
    if (yield len(ADMITTED)) != ADMITTED:
        raise Stranger(f"{where} does not speak this protocol")
    return heard


def answering(own: Identity, where: str) -> Dialogue:
    """The end of a handshake that accepted the connection, until it can be judged.

    Parameters
    ----------
    own, where
        As :func:`calling` takes them.

    Raises
    ------
    VersionMismatch, SecretMismatch, Stranger
        When the peer does not prove to be of this launch.
    """
    greetings = yield from _greet(own, where, first=False)
    proof = yield _SEAL_BYTES
    if not hmac.compare_digest(proof, _seal(own, "caller", greetings)):
        raise SecretMismatch(_no_secret(where, "its proof is wrong"))
    said = _said(own, "listener", greetings)
    yield said
    text = said[_SIZE.size : -_SEAL_BYTES]
    heard, _ = yield from _hear(own, "caller hello", greetings + text, where)
    return heard


def judge(own: Identity, heard: Hello, ranks: Collection[int], where: str) -> None:
    """Check whether a peer that knows the secret is who is expected, and computes the same.

    Parameters
    ----------
    own
        What this rank says of itself.
    heard
        What the peer said.
    ranks
        Ranks that are expected.
    where
        What errors call the peer.

    Raises
    ------
    RunMismatch, Stranger
        When it is not expected; the wait may go on.
    SchemaMismatch, PlanMismatch, CutsMismatch, TorchMismatch, WeightsMismatch
        When it is the neighbour and must not be worked with.
    """
    if heard.session != own.session:
        raise RunMismatch(
            f"{where} belongs to {heard.session or 'no session'}, this rank to {own.session}; "
            "all ranks must belong to the same run, session and attempt"
        )
    if heard.purpose != own.purpose or heard.rank not in ranks:
        raise Stranger(
            f"{where} comes as rank {heard.rank} for the {heard.purpose}, which is not whom rank "
            f"{own.rank} expects for the {own.purpose}"
        )
    for key, (mismatch, name) in _AGREED.items():
        here, there = getattr(own.agreement, key), getattr(heard.agreement, key)
        if here != there:
            raise mismatch(
                f"{where} (rank {heard.rank}) has {name} {there or 'none'}, this rank "
                f"{here or 'none'}; all ranks of a session must have the same"
            )


TELLING = (RunMismatch, SecretMismatch, VersionMismatch)
"""Strangers that say why a rank did not come, those that say most first."""

_AGREED: dict[str, tuple[type[HandshakeError], str]] = {
    "schema": (SchemaMismatch, "schema of records"),
    "plan": (PlanMismatch, "digest of the plan"),
    "cuts": (CutsMismatch, "digest of the planned cuts"),
    "torch": (TorchMismatch, "version of torch"),
    "weights": (WeightsMismatch, "checksum of the weights"),
}
assert set(_AGREED) == {part.name for part in fields(Agreement)}


def telling(before: Stranger | None, now: Stranger) -> Stranger:
    """The stranger to report of two: the one that says more, else the later one."""
    return min((now, before or now), key=_rank)


def _rank(stranger: Stranger) -> int:
    """How much a stranger says of why a rank did not come; less is more."""
    kind = type(stranger)
    return TELLING.index(kind) if kind in TELLING else len(TELLING)


def late(text: str, stranger: Stranger | None) -> TransportError:
    """The error for a rank that did not come, or could not be reached, in time."""
    kind = type(stranger) if isinstance(stranger, TELLING) else DeadlineExceeded
    return kind(text)


def closed(where: str) -> Stranger:
    """The error for a peer that hangs up."""
    return Stranger(f"{where} closed the connection before it had said who it is")


def _greet(
    own: Identity, where: str, *, first: bool = True
) -> Generator[bytes | int, bytes, bytes]:
    """Exchange greetings; both of them, the caller's first."""
    mine = _GREETING.pack(_MAGIC, own.version, secrets.token_bytes(32))
    if first:
        yield mine
    theirs = yield _GREETING.size
    magic, version, _ = _GREETING.unpack(theirs)
    if magic != _MAGIC:
        raise Stranger(f"{where} does not speak this protocol")
    if not first:
        yield mine
    if version != own.version:
        raise VersionMismatch(
            f"{where} speaks version {version} of this protocol, this rank {own.version}; "
            "all hosts must have the same version of the worker package"
        )
    return mine + theirs if first else theirs + mine


def _hear(
    own: Identity, part: str, before: bytes, where: str
) -> Generator[int, bytes, tuple[Hello, bytes]]:
    """Read a hello, whose size is checked before it is read; it, and its text."""
    (size,) = _SIZE.unpack((yield _SIZE.size))
    if size > _MAX_TEXT_BYTES:
        raise Stranger(f"{where} announced a hello of {size} bytes; at most {_MAX_TEXT_BYTES}")
    text = yield size
    if not hmac.compare_digest((yield _SEAL_BYTES), _seal(own, part, before + text)):
        raise SecretMismatch(_no_secret(where, "its proof is wrong"))
    try:
        said = json.loads(text)
        parts = {key: _text(said["agreement"].get(key)) for key in _AGREED}
        hello = Hello(
            rank=_number(said["rank"]),
            purpose=_text(said["purpose"]),
            session=_text(said["session"]),
            agreement=Agreement(**parts),
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise Stranger(f"{where} sent something that is not a hello: {text[:60]!r}") from error
    return hello, text


def _said(own: Identity, part: str, before: bytes) -> bytes:
    """The hello of this rank with its size and its proof."""
    text = json.dumps(
        {
            "purpose": own.purpose,
            "rank": own.rank,
            "session": own.session,
            "agreement": asdict(own.agreement),
        }
    ).encode()
    return _SIZE.pack(len(text)) + text + _seal(own, part, before + text)


def _seal(own: Identity, part: str, before: bytes) -> bytes:
    """The proof at one place of a handshake, which only a rank with the secret can compute."""
    digest = hashlib.sha256(before).digest()
    told = b"paretopipe handshake " + part.encode() + b"\0" + digest
    return hmac.digest(own.secret, told, "sha256")


def _no_secret(where: str, how: str) -> str:
    """The text of an error for a peer that has not proved anything."""
    return (
        f"{where} does not know the run's secret ({how}); all ranks of a launch must have the "
        "secret that its playbook made"
    )


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

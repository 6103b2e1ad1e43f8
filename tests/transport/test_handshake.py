"""Both ends of a connection authenticate each other, over real sockets."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from paretopipe_worker.session import control
from paretopipe_worker.session.control import Channel
from paretopipe_worker.transport import handshake as shaking
from paretopipe_worker.transport import ring
from paretopipe_worker.transport.agreement import Agreement
from paretopipe_worker.transport.api import DeadlineExceeded, Endpoint, TransportError, connect
from paretopipe_worker.transport.handshake import (
    CutsMismatch,
    HandshakeError,
    Identity,
    Patience,
    PlanMismatch,
    RunMismatch,
    SchemaMismatch,
    SecretMismatch,
    Stranger,
    TorchMismatch,
    WeightsMismatch,
    shake_hands,
)
from tests.helpers.rings import endpoints, free_ports

pytestmark = pytest.mark.slow

SECRET, WRONG = b"the secret of this launch, 64 long".ljust(64, b"."), b"guessed".ljust(64, b".")
AGREED = Agreement(schema="4", plan="p" * 64, cuts="c" * 64, torch="2.13.0", weights="w" * 64)

Meet = Callable[[dict[str, Any]], list[BaseException | None]]

DIFFERENT = {
    "secret": ({"secret": WRONG}, SecretMismatch, ["does not know the run's secret", "playbook"]),
    "schema": ({"agreement": replace(AGREED, schema="5")}, SchemaMismatch, ["4", "5", "same"]),
    "plan": ({"agreement": replace(AGREED, plan="q" * 64)}, PlanMismatch, ["ppp", "qqq", "same"]),
    "cuts": ({"agreement": replace(AGREED, cuts="d" * 64)}, CutsMismatch, ["ccc", "ddd", "same"]),
    "torch": (
        {"agreement": replace(AGREED, torch="2.12.1")},
        TorchMismatch,
        ["2.13.0", "2.12.1", "same"],
    ),
    "weights": (
        {"agreement": replace(AGREED, weights="v" * 64)},
        WeightsMismatch,
        ["www", "vvv", "same"],
    ),
    "run": ({"session": "run/other.1"}, RunMismatch, ["run/session.1", "run/other.1", "same run"]),
}


def outcomes(*calls: Callable[[], Any]) -> list[BaseException | None]:
    """Run calls at once and return how each failed; what they made is closed."""
    with ThreadPoolExecutor(len(calls)) as pool:
        futures = [pool.submit(call) for call in calls]
        errors = [future.exception(timeout=60) for future in futures]
    for future, error in zip(futures, errors, strict=True):
        if error is None:
            made = future.result()
            for part in made if isinstance(made, list) else [made]:
                part.close()
    return errors


def meet_on_a_link(difference: dict[str, Any], deadline_s: float = 1.5) -> list[Any]:
    """Two neighbours join a ring, the second with a difference."""
    first, second = (
        replace(end, session="run/session.1", secret=SECRET, agreement=AGREED)
        for end in endpoints()
    )
    second = replace(second, **difference)
    return outcomes(
        lambda: connect("tcp", first, deadline_s=deadline_s),
        lambda: connect("tcp", second, deadline_s=deadline_s),
    )


def meet_on_the_control_channel(difference: dict[str, Any], deadline_s: float = 1.5) -> list[Any]:
    """Rank 1 follows rank 0, with a difference."""
    address = ("127.0.0.1", free_ports(1)[0])
    ends = [
        Identity(
            "control", rank, **{"session": "run/session.1", "secret": SECRET, "agreement": AGREED}
        )
        for rank in (0, 1)
    ]
    ends[1] = replace(ends[1], **difference)
    return outcomes(
        lambda: control.lead(address, ends[0], {"rank": 0, "host": "edge"}, 2, deadline_s),
        lambda: control.follow(address, "127.0.0.1", ends[1], {"rank": 1}, deadline_s),
    )


WAYS = pytest.mark.parametrize("meet", [meet_on_a_link, meet_on_the_control_channel])


@WAYS
def test_ranks_that_agree_meet(meet: Meet) -> None:
    assert meet({}) == [None, None]


@WAYS
@pytest.mark.parametrize("name", DIFFERENT)
def test_each_mismatch_is_an_error_of_its_own_name_on_both_sides(meet: Meet, name: str) -> None:
    difference, kind, texts = DIFFERENT[name]
    begin = time.monotonic()
    errors = meet(difference)
    assert [type(error) for error in errors] == [kind, kind], errors
    for error in errors:
        assert isinstance(error, TransportError)
        assert re.search(r"127\.0\.0\.1:\d+", str(error))
        assert [text for text in texts if text not in str(error)] == []
        assert not any(secret.decode() in str(error) for secret in (SECRET, WRONG))
    assert time.monotonic() - begin < 20


def test_another_version_of_the_protocol_is_named_on_both_sides() -> None:
    errors = meet_on_the_control_channel({"version": 1})
    assert [type(error) for error in errors] == [SchemaMismatch, SchemaMismatch], errors
    assert f"speaks version 1 of this protocol, this rank {shaking.VERSION}" in str(errors[0])
    assert f"speaks version {shaking.VERSION} of this protocol, this rank 1" in str(errors[1])


def pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of one connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        here = socket.create_connection(listener.getsockname(), timeout=10)
        return here, listener.accept()[0]


@contextlib.contextmanager
def answering(own: Identity, ranks: set[int]) -> Iterator[tuple[socket.socket, list[Any]]]:
    """A listener's half of a handshake in a thread; yields the caller's socket and the outcome."""
    here, there = pair()
    found: list[Any] = []

    def answer() -> None:
        with there:
            try:
                found.append(shake_hands(there, "listener", own, ranks, Patience(10), 10))
            except HandshakeError as error:
                found.append(error)

    thread = threading.Thread(target=answer)
    thread.start()
    with here:
        yield here, found
        with contextlib.suppress(OSError):
            here.shutdown(socket.SHUT_WR)
        thread.join(20)
    assert found


OWN = Identity("ring", 1, "run/session.1", AGREED, SECRET)
NEIGHBOUR = replace(OWN, rank=0)
_HEAD = struct.Struct("<4sHH")


def hello_of(link: socket.socket) -> bytes:
    """Read one hello."""
    head = link.recv(_HEAD.size, socket.MSG_WAITALL)
    return head + link.recv(_HEAD.unpack(head)[2], socket.MSG_WAITALL)


def test_a_handshake_that_was_recorded_proves_nothing_the_next_time() -> None:
    with answering(OWN, {0}) as (link, found):
        hello = shaking._say(NEIGHBOUR)
        link.sendall(hello)
        proof = shaking._proof(SECRET, "caller", hello, hello_of(link))
        link.sendall(proof)
        link.recv(32, socket.MSG_WAITALL)
    assert found[0].rank == 0
    with answering(OWN, {0}) as (link, found):
        link.sendall(hello)
        hello_of(link)
        link.sendall(proof)
        link.recv(32, socket.MSG_WAITALL)
    assert isinstance(found[0], SecretMismatch)


def test_what_is_sent_back_to_where_it_came_from_proves_nothing() -> None:
    """Neither as the same rank nor, by one who changes the rank, as another."""
    here, there = pair()
    with here, there, ThreadPoolExecutor(1) as pool:
        caller = pool.submit(shake_hands, there, "caller", OWN, {2, 0}, Patience(10), 10)
        here.sendall(hello_of(here))
        assert isinstance(caller.exception(timeout=20), Stranger)
    here, there = pair()
    with here, there, ThreadPoolExecutor(1) as pool:
        caller = pool.submit(shake_hands, there, "caller", OWN, {2, 0}, Patience(10), 10)
        said = hello_of(here)
        text = json.dumps({**json.loads(said[_HEAD.size :]), "rank": 2}).encode()
        here.sendall(_HEAD.pack(*_HEAD.unpack(said[: _HEAD.size])[:2], len(text)) + text)
        here.sendall(here.recv(32, socket.MSG_WAITALL))
        assert isinstance(caller.exception(timeout=20), SecretMismatch)


def test_a_hello_is_bounded_before_it_is_read() -> None:
    with answering(OWN, {0}) as (link, found):
        link.sendall(_HEAD.pack(b"PPRH", shaking.VERSION, 60_000))
        assert link.recv(1) == b""
    assert isinstance(found[0], Stranger)


@pytest.mark.parametrize(
    "text",
    [b"[" * 2000, b"{}", b'{"session": 1}', b"\xff", b"null", b'{"agreement": [], "rank": 0}'],
)
def test_what_is_no_hello_is_a_stranger(text: bytes) -> None:
    with answering(OWN, {0}) as (link, found):
        link.sendall(_HEAD.pack(b"PPRH", shaking.VERSION, len(text)) + text)
    assert isinstance(found[0], Stranger)


def test_strangers_do_not_keep_the_neighbour_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port scan, one that says nothing, a stage of another session, a rank that has no place."""
    monkeypatch.setattr(ring, "_HELLO_S", 1)  # what the silent one takes
    first, second = (
        replace(end, session="run/session.1", secret=SECRET, agreement=AGREED)
        for end in endpoints()
    )
    with ThreadPoolExecutor(2) as pool, contextlib.ExitStack() as stack:
        waiting = pool.submit(lambda: connect("tcp", first, deadline_s=40))
        own = Identity("ring", 1, "run/session.1", AGREED, SECRET)
        for greeting in (
            b"GET / HTTP/1.0\r\n\r\n",
            b"",
            shaking._say(replace(own, session="run/other.1")),
            shaking._say(replace(own, rank=0)),
            shaking._say(replace(own, purpose="control")),
        ):
            stranger = stack.enter_context(reached(first.own))
            stranger.sendall(greeting)
        joined = pool.submit(lambda: connect("tcp", second, deadline_s=40))
        for transport in (waiting.result(50), joined.result(50)):
            transport.close()


def reached(address: tuple[str, int]) -> socket.socket:
    """A connection to who may not listen yet."""
    deadline = time.monotonic() + 10
    while True:
        try:
            return socket.create_connection(address, timeout=5)
        except ConnectionRefusedError:
            assert time.monotonic() < deadline, "nobody ever listened"


def test_a_neighbour_that_never_says_who_it_is_is_named_with_who_was_turned_away() -> None:
    first, _ = endpoints()
    with ThreadPoolExecutor(1) as pool:
        joining = pool.submit(lambda: connect("tcp", first, deadline_s=1))
        with reached(first.own) as scan:
            scan.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert isinstance(joining.exception(timeout=20), DeadlineExceeded)


def test_three_ranks_meet_and_one_that_disagrees_is_found_by_both_neighbours() -> None:
    ports = [("127.0.0.1", port) for port in free_ports(3)]
    ends = [
        Endpoint(rank, ports[rank], ports[(rank + 1) % 3], "run/session.1", SECRET, AGREED)
        for rank in range(3)
    ]

    def join(end: Endpoint) -> Callable[[], Any]:
        return lambda: connect("tcp", end, deadline_s=3)

    assert outcomes(*map(join, ends)) == [None] * 3
    ends[1] = replace(ends[1], agreement=replace(AGREED, torch="2.12.1"))
    errors = outcomes(*map(join, ends))
    assert all(isinstance(error, TransportError) for error in errors)
    assert sum(isinstance(error, TorchMismatch) for error in errors) >= 2, errors


def test_the_control_channel_tells_the_ranks_apart() -> None:
    address = ("127.0.0.1", free_ports(1)[0])
    ends = [Identity("control", rank, "run/session.1", AGREED, SECRET) for rank in range(3)]
    with ThreadPoolExecutor(3) as pool:
        leading = pool.submit(control.lead, address, ends[0], {"rank": 0}, 3, 20)
        following = [
            pool.submit(control.follow, address, "127.0.0.1", end, {"host": f"h{end.rank}"}, 20)
            for end in ends[:0:-1]
        ]
        channels: list[Channel] = leading.result(30)
        assert [channel.hello["host"] for channel in channels] == ["h1", "h2"]
        assert "rank 1 (h1, 127.0.0.1:" in channels[0].peer
        for channel in [*channels, *(each.result(30) for each in following)]:
            channel.close()


def test_the_secret_is_in_nothing_that_crosses_or_is_printed() -> None:
    with answering(OWN, {0}) as (link, found):
        hello = shaking._say(NEIGHBOUR)
        link.sendall(hello)
        theirs = hello_of(link)
        proof = shaking._proof(SECRET, "caller", hello, theirs)
        link.sendall(proof)
        answer = link.recv(32, socket.MSG_WAITALL)
    end = Endpoint(0, ("127.0.0.1", 1), ("127.0.0.1", 2), "s", SECRET, AGREED)
    said = b"".join((hello, theirs, proof, answer, repr((found, OWN, end)).encode()))
    for form in (SECRET, SECRET.hex().encode(), hashlib.sha256(SECRET).digest()):
        assert form not in said

"""Both ends of a connection authenticate each other, over real sockets."""

from __future__ import annotations

import hashlib
import re
import struct
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from paretopipe_worker.session import control
from paretopipe_worker.session.control import Channel
from paretopipe_worker.transport import handshake as shaking
from paretopipe_worker.transport.agreement import Agreement
from paretopipe_worker.transport.api import Endpoint, TransportError, connect
from paretopipe_worker.transport.handshake import (
    CutsMismatch,
    Identity,
    PlanMismatch,
    RunMismatch,
    SchemaMismatch,
    SecretMismatch,
    Stranger,
    TorchMismatch,
    VersionMismatch,
    WeightsMismatch,
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
    assert [type(error) for error in errors] == [VersionMismatch, VersionMismatch], errors
    assert f"speaks version 1 of this protocol, this rank {shaking.VERSION}" in str(errors[0])
    assert f"speaks version {shaking.VERSION} of this protocol, this rank 1" in str(errors[1])


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


OWN = Identity("ring", 1, "run/session.1", AGREED, SECRET)
NEIGHBOUR = replace(OWN, rank=0)
GREETING = struct.Struct("<4sH32s")
SEAL_BYTES = 32


@pytest.mark.parametrize(
    "text",
    [b"[" * 2000, b"{}", b'{"session": 1}', b"\xff", b"null", b'{"agreement": [], "rank": 0}'],
)
def test_what_is_no_hello_is_a_stranger(text: bytes) -> None:
    answering = shaking.answering(OWN, "a peer")
    next(answering)
    mine = GREETING.pack(b"PPRH", shaking.VERSION, b"n" * 32)
    theirs = answering.send(mine)
    assert isinstance(theirs, bytes) and next(answering) == SEAL_BYTES
    greetings = mine + theirs
    said = answering.send(shaking._seal(OWN, "caller", greetings))
    assert isinstance(said, bytes) and next(answering) == 2
    before = greetings + said[2:-SEAL_BYTES]
    assert answering.send(struct.pack("<H", len(text))) == len(text)
    assert answering.send(text) == SEAL_BYTES
    with pytest.raises(Stranger, match="not a hello"):
        answering.send(shaking._seal(OWN, "caller hello", before + text))


def test_the_secret_is_in_nothing_that_crosses_or_is_printed() -> None:
    crossed: list[bytes] = []
    ends = shaking.calling(NEIGHBOUR, {1}, "a peer"), shaking.answering(OWN, "a peer")
    wants: list[bytes | int] = [next(end) for end in ends]
    unread = [b"", b""]
    heard: list[Any] = []
    while not heard:
        for number, end in enumerate(ends):
            try:
                said = wants[number]
                if isinstance(said, bytes):
                    crossed.append(said)
                    unread[1 - number] += said
                    wants[number] = next(end)
                elif len(unread[number]) >= said:
                    part, unread[number] = unread[number][:said], unread[number][said:]
                    wants[number] = end.send(part)
            except StopIteration as ended:
                heard.append(ended.value)
    end_of_ring = Endpoint(0, ("127.0.0.1", 1), ("127.0.0.1", 2), "s", SECRET, AGREED)
    said_in_all = b"".join((*crossed, repr((heard, OWN, end_of_ring)).encode()))
    assert AGREED.plan.encode() in said_in_all
    for form in (SECRET, SECRET.hex().encode(), hashlib.sha256(SECRET).digest()):
        assert form not in said_in_all

"""Comparing two hosts' clocks over a control channel: what is kept, and what is refused."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from paretopipe_worker.session import clocks
from paretopipe_worker.session.control import Channel, ControlError


@contextmanager
def answering(answer: Callable[[Channel], None]) -> Iterator[Channel]:
    """A channel to a peer that answers so."""
    ours, theirs = (Channel(end, name) for end, name in zip(socket.socketpair(), "ab", strict=True))

    def follow() -> None:
        while theirs.receive(10).get("do") == clocks.COMMAND:
            answer(theirs)

    peer = threading.Thread(target=follow)
    peer.start()
    try:
        yield ours
    finally:
        ours.send({"do": "end"})
        peer.join()
        ours.close()
        theirs.close()


@pytest.mark.parametrize("when", clocks.EXCHANGES)
def test_the_fastest_exchanges_are_kept_fastest_first(when: clocks.When) -> None:
    answers = []

    def answer(channel: Channel) -> None:
        answers.append(None)
        clocks.answer(channel)

    with answering(answer) as channel:
        compared = clocks.compare(when, 1, channel)
    assert (compared.when, compared.rank) == (when, 1)
    assert len(answers) == clocks.EXCHANGES[when]
    took_ns = [each.received[2] - each.sent[0] for each in compared.exchanges]
    assert len(took_ns) == clocks.KEPT and took_ns == sorted(took_ns)
    for exchange in compared.exchanges:
        # Both ends read the same clocks here.
        for which in (0, 1, 2):
            assert exchange.sent[which] <= exchange.theirs[which] <= exchange.received[which]


def test_both_clocks_are_read_together() -> None:
    readings = [clocks.read() for _ in range(200)]
    assert all(before <= after for before, _, after in readings)
    widths_ns = sorted(after - before for before, _, after in readings)
    assert widths_ns[100] < 100_000
    raw_ns, ns = (readings[-1][which] - readings[0][which] for which in (1, 0))
    assert abs(raw_ns - ns) < 1e-3 * ns + 2 * widths_ns[-1]


@pytest.mark.parametrize(
    "times", [None, 5, [1, 2], [1, 2, 3, 4], ["1", 2, 3], [1, -2, 3], [1, 2, 1 << 63], [1.5, 2, 3]]
)
def test_an_answer_that_is_no_reading_is_refused(times: Any) -> None:
    with (
        answering(lambda channel: channel.send({"reading": times})) as channel,
        pytest.raises(ControlError, match="as the times of its clocks"),
    ):
        clocks.compare("between", 1, channel)

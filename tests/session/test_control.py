"""The control channel holds its deadline and its bounds, whatever the other end sends."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from paretopipe_worker.session import control
from paretopipe_worker.session.control import Channel, ControlError


@contextlib.contextmanager
def connected() -> Iterator[tuple[Channel, socket.socket]]:
    """A channel, and the bare other end of its connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        there = socket.create_connection(listener.getsockname(), timeout=10)
        here = listener.accept()[0]
    with contextlib.closing(Channel(here, "rank 1")) as channel, there:
        yield channel, there


def test_messages_that_come_together_or_in_pieces_are_told_apart() -> None:
    with connected() as (channel, there):
        there.sendall(b'{"a": 1}\n{"b": 2}\n{"c"')
        assert [channel.receive(10), channel.receive(10)] == [{"a": 1}, {"b": 2}]
        there.sendall(b": 3}\n")
        assert channel.receive(10) == {"c": 3}


def test_a_byte_now_and_then_does_not_put_the_deadline_off() -> None:
    over = threading.Event()
    with connected() as (channel, there):

        def drip() -> None:
            with contextlib.suppress(OSError):
                while not over.wait(0.05):
                    there.sendall(b" ")

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            with pytest.raises(ControlError, match=r"no answer within 0\.4 s"):
                channel.receive(0.4)
        finally:
            over.set()
            dripping.join()


@pytest.mark.parametrize("sent", [b"[1]\n", b"null\n", b"{\n", b"\xff\n", b"[" * 100_000 + b"\n"])
def test_what_is_no_message_is_named(sent: bytes) -> None:
    with connected() as (channel, there):
        there.sendall(sent)
        with pytest.raises(ControlError, match=r"rank 1: sent .* allowed: a JSON object"):
            channel.receive(10)


def test_a_line_without_an_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "MAX_LINE_BYTES", 1000)
    with connected() as (channel, there):
        there.sendall(b'{"text": "' + b"x" * 2000)
        with pytest.raises(ControlError, match="on one line"):
            channel.receive(10)


def test_an_end_in_the_middle_of_a_message_is_named() -> None:
    with connected() as (channel, there):
        there.sendall(b'{"text": ')
        there.shutdown(socket.SHUT_WR)
        with pytest.raises(ControlError, match="on one line"):
            channel.receive(10)
        with pytest.raises(ControlError, match="ended while the session was running"):
            channel.receive(10)

"""Measure the path between the stages with their own connections, before and after a session."""

from __future__ import annotations

import time
from typing import Any, Literal

import torch

from paretopipe_worker.control import Channel, ControlError
from paretopipe_worker.cuts import TensorSpec
from paretopipe_worker.records import Probe
from paretopipe_worker.spec import LinkSpec
from paretopipe_worker.transport import PHASES, Tag, Transport

_SMALL_BYTES = 64
_ROUND_TRIPS = 20
_CHUNKS = 8
_CHUNK_S = 0.06
_CHUNK_BYTES = 1 << 20
_PATIENCE_S = 30
_TAG = PHASES.index("warmup")


def probe(
    when: Literal["before", "after"], link: LinkSpec, transport: Transport, channel: Channel
) -> Probe:
    """Measure round trips, then the goodput of each direction, as rank 0.

    Goodput is that of the second half of eight chunks, since the first half fills buffers and lets
    TCP find the rate; it is taken where they arrive, on the receiver's own clock.
    """
    size = _CHUNK_BYTES
    if link.rate_mbit is not None:
        size = max(_SMALL_BYTES, min(size, round(link.rate_mbit * 1e6 / 8 * _CHUNK_S)))
    deadline_s = _PATIENCE_S + round(20 * link.delay_ms / 1e3)

    def start(what: str, inbound: int, outbound: int) -> None:
        channel.send(
            {"do": what, "inbound": outbound, "outbound": inbound, "deadline_s": deadline_s}
        )
        _configure(transport, inbound, outbound, deadline_s)

    start("echo", _SMALL_BYTES, _SMALL_BYTES)
    round_trips = [_round_trip(transport, number) for number in range(_ROUND_TRIPS)]
    start("receive", 0, size)
    _send_chunks(transport, size)
    there_ns = channel.receive(deadline_s).get("span_ns")
    if not isinstance(there_ns, int) or there_ns <= 0:
        raise ControlError(f"{channel.peer}: sent no time for the probe's chunks")
    start("send", size, 0)
    back_ns = _receive_chunks(transport)
    bits = size * 8 * (_CHUNKS - _CHUNKS // 2)
    return Probe(when, tuple(round_trips), tuple(bits / ns * 1e3 for ns in (there_ns, back_ns)))


COMMANDS = ("echo", "receive", "send")
"""What rank 0 may ask of another rank while it probes."""


def answer(command: dict[str, Any], transport: Transport, channel: Channel) -> None:
    """Take part in one step of a probe, as another rank."""
    inbound, outbound = (_size(command.get(key)) for key in ("inbound", "outbound"))
    _configure(transport, inbound, outbound, _size(command.get("deadline_s")))
    match command["do"]:
        case "echo":
            for _ in range(_ROUND_TRIPS):
                message = transport.recv()
                transport.send(message.tag, message.tensors)
        case "receive":
            channel.send({"span_ns": _receive_chunks(transport)})
        case "send":
            _send_chunks(transport, outbound)


def _configure(transport: Transport, inbound: int, outbound: int, deadline_s: int) -> None:
    """Say what the messages of one step carry; none in a direction that is not used."""
    there, back = ([TensorSpec((size,), "uint8")] if size else [] for size in (inbound, outbound))
    transport.configure(there, back, window=1, deadline_s=deadline_s)
    transport.begin(overlap=False)


def _round_trip(transport: Transport, number: int) -> int:
    """Nanoseconds of one small message there and back."""
    tensor = torch.zeros(_SMALL_BYTES, dtype=torch.uint8)
    start_ns = time.perf_counter_ns()
    transport.send(Tag(_TAG, number), [tensor])
    return transport.recv().received_ns - start_ns


def _send_chunks(transport: Transport, size: int) -> None:
    """Send the chunks one behind the other."""
    tensor = torch.zeros(size, dtype=torch.uint8)
    for number in range(_CHUNKS):
        transport.send(Tag(_TAG, number), [tensor])


def _receive_chunks(transport: Transport) -> int:
    """Nanoseconds from the end of the first half to the end of the last chunk."""
    times = [transport.recv().received_ns for _ in range(_CHUNKS)]
    return times[-1] - times[_CHUNKS // 2 - 1]


def _size(value: object) -> int:
    """A number of a command, bounded: it comes from another host."""
    if not isinstance(value, int) or not 0 <= value <= _CHUNK_BYTES:
        raise ControlError(f"a probe command holds {value!r}; allowed: 0 to {_CHUNK_BYTES}")
    return value

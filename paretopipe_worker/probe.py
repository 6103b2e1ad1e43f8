"""Measure the path between the stages with their own connections, before and after a session."""

from __future__ import annotations

import time
from typing import Literal

import torch

from paretopipe_worker.control import Channel
from paretopipe_worker.cuts import TensorSpec
from paretopipe_worker.records import Probe
from paretopipe_worker.spec import LinkSpec
from paretopipe_worker.transport import MARK, PHASES, Tag, Transport

_SMALL = TensorSpec((64,), "uint8")
_ROUND_TRIPS = 20
_CHUNKS = 8
_CHUNK_S = 0.1
_CHUNK_BYTES = 1 << 20
_PATIENCE_S = 30.0
_TAG = PHASES.index("warmup")


def probe(
    when: Literal["before", "after"], link: LinkSpec, transport: Transport, channel: Channel
) -> Probe:
    """Measure round trips, then the goodput of each direction, as rank 0.

    Goodput is that of the second half of eight chunks: the first fills buffers and lets TCP find
    the rate.
    """
    size = _CHUNK_BYTES
    if link.rate_mbit is not None:
        size = min(size, round(link.rate_mbit * 1e6 / 8 * _CHUNK_S))
    bulk = TensorSpec((size,), "uint8")
    small = _exchange(transport, channel, _SMALL, _SMALL, _ROUND_TRIPS, link, overlap=False)
    goodput = []
    for there, back in ((bulk, _SMALL), (_SMALL, bulk)):
        times = _exchange(transport, channel, there, back, _CHUNKS, link, overlap=True)
        half = _CHUNKS // 2
        seconds = (times[-1][1] - times[half - 1][1]) / 1e9
        goodput.append(size * half * 8 / seconds / 1e6)
    return Probe(when, tuple(done - ready for ready, done in small), tuple(goodput))


def answer(command: dict[str, object], transport: Transport) -> None:
    """Take part in one exchange as another rank: return a tensor of the asked size for each."""
    there, back = (TensorSpec((_size(command[key]),), "uint8") for key in ("there", "back"))
    window = _size(command["window"])
    transport.configure([there], [back], window=window, deadline_s=_size(command["deadline_s"]))
    reply = torch.zeros(back.shape, dtype=torch.uint8)
    transport.begin(overlap=False)
    while (message := transport.recv()).tag != MARK:
        transport.send(message.tag, [reply])
    transport.send(MARK, [])


def _size(value: object) -> int:
    """A number of a command, bounded: it comes from another host."""
    if not isinstance(value, int) or not 0 < value <= _CHUNK_BYTES:
        raise ValueError(f"a probe command holds {value!r}; allowed: 1 to {_CHUNK_BYTES}")
    return value


def _exchange(
    transport: Transport,
    channel: Channel,
    there: TensorSpec,
    back: TensorSpec,
    count: int,
    link: LinkSpec,
    *,
    overlap: bool,
) -> list[tuple[int, int]]:
    """Send `count` messages, with overlap all at once; return when each went and was answered."""
    deadline_s = round(_PATIENCE_S + 20 * link.delay_ms / 1e3)
    channel.send(
        {
            "do": "probe",
            "there": there.nbytes,
            "back": back.nbytes,
            "window": count,
            "deadline_s": deadline_s,
        }
    )
    transport.configure([back], [there], window=count, deadline_s=deadline_s)
    tensor = torch.zeros(there.shape, dtype=torch.uint8)
    transport.begin(overlap=overlap)
    times: list[tuple[int, int]] = []
    sent: list[int] = []
    for number in range(count):
        # Taken where the message is sent: the times of one exchange are of one clock.
        sent.append(time.perf_counter_ns())
        transport.send(Tag(_TAG, number), [tensor])
        if not overlap:
            times.append((sent[number], transport.recv().received_ns))
    if overlap:
        times = [(ready_ns, transport.recv().received_ns) for ready_ns in sent]
    transport.send(MARK, [])
    transport.recv()
    return times

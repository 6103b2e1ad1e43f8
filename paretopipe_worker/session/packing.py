"""Pack what a stage sends, and unpack what it is given, in the wire format of a point.

Messages are packed on their way forward. The answer goes home as it is: it is small, and its error
is to be the model's alone. A rank without a stage passes on packed messages as they came.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from paretopipe_worker.cuts import PLAIN, TensorSpec, Varying
from paretopipe_worker.plan.plan import Point
from paretopipe_worker.session.stretching import stretch
from paretopipe_worker.transport.api import Transport
from paretopipe_worker.wire.formats import packer

_Made = TypeVar("_Made")
_Tensors = tuple[torch.Tensor, ...]


class Packing:
    """The messages of one rank at one point.

    Parameters
    ----------
    transport
        What moves them.
    point, rank
        The point, and a rank that takes part in it.
    stretch
        Factor by which the host's computing is stretched, and packing with it.

    Attributes
    ----------
    packed_bytes
        What all messages of the leg have, as they are handed to the transport.

    Raises
    ------
    WireError
        When this host lacks the library of the point's format.
    """

    def __init__(self, transport: Transport, point: Point, rank: int, stretch: float) -> None:
        self.packed_bytes = 0
        self._transport, self._stretch = transport, stretch
        self._deadline_s = point.deadline_s
        sizes, ring = point.message_sizes, len(point.hops)
        given, made = point.hops[rank - 1], point.hops[rank]
        packed = point.wire != PLAIN and point.crosses
        passes_on = 0 < rank < ring - 1 and point.split[rank - 1] == point.split[rank]
        unpacks, packs = packed and rank > 0, packed and rank < ring - 1
        self._inbound = _message(sizes[rank - 1]) if unpacks else given
        self._outbound = _message(sizes[rank]) if packs else made
        self._unpacker = packer(point.wire, given) if unpacks and not passes_on else None
        self._packer = packer(point.wire, made) if packs and not passes_on else None
        self._buffers: Iterator[torch.Tensor] = iter(())

    def begin(self, *, window: int, overlap: bool) -> None:
        """Have the transport, and memory for packed messages, ready for a leg."""
        self.packed_bytes = 0
        if self._packer:
            # The transport may read a message until it has come around the ring.
            size, count = self._packer.most_bytes, window + 1
            memory = [torch.empty(size, dtype=torch.uint8) for _ in range(count)]
            self._buffers = itertools.cycle(memory)
        self._transport.configure(
            self._inbound, self._outbound, window=window, deadline_s=self._deadline_s
        )
        self._transport.begin(overlap=overlap)

    def unpack(self, given: _Tensors) -> tuple[_Tensors, int | None]:
        """The tensors of a message that came, and how long unpacking took; None where it did not.

        Raises
        ------
        WireError
            When these bytes are no message of the point's format.
        """
        unpacker = self._unpacker
        if unpacker is None:
            return given, None
        (packed,) = given
        return self._timed(lambda: unpacker.unpack(packed.numpy().data))

    def pack(self, tensors: _Tensors) -> tuple[_Tensors, int | None]:
        """What to hand to the transport, and how long packing took; None where it did not.

        Raises
        ------
        WireError
            When the format cannot hold the values.
        """
        pack_ns, made = None, self._packer
        if made is not None:
            buffer, values = next(self._buffers), tensors
            size, pack_ns = self._timed(lambda: memoryview(made.pack(values, into=buffer)).nbytes)
            tensors = (buffer[:size],)
        self.packed_bytes += sum(tensor.nbytes for tensor in tensors)
        return tensors, pack_ns

    def _timed(self, work: Callable[[], _Made]) -> tuple[_Made, int]:
        """Do something, and say how long that took; a slower host takes longer for it, too."""
        cpu_ns, start_ns = time.thread_time_ns(), time.perf_counter_ns()
        made = work()
        ended_ns = time.perf_counter_ns()
        if self._stretch > 1:
            cpu_ns = time.thread_time_ns() - cpu_ns
            ended_ns, _ = stretch(ended_ns, self._stretch, ended_ns - start_ns, cpu_ns)
        return made, ended_ns - start_ns


def _message(sizes: range) -> tuple[TensorSpec, ...]:
    """A packed message as the transport carries it: one tensor of bytes."""
    most = sizes[-1]
    return (Varying.up_to(most) if len(sizes) > 1 else TensorSpec((most,), "uint8"),)

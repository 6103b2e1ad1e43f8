"""Memory for inbound messages, allocated once for the coming legs and used in turn.

At most W messages are in flight in the whole ring. With W + 1 slots, the slot of a message is
written again only after that message has come home to the source, so nobody reads it any more.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import mmap
from collections.abc import Iterator, Sequence

import torch

from paretopipe_worker.cuts import TensorSpec

Part = bytearray | memoryview | ctypes.Array[ctypes.c_ubyte]
Parts = list[Part]
"""Memory of one message, the header first, in the order in which it crosses."""

_ALIGNMENT = 64  # of tensor memory; vector instructions also prefer it
_HUGE_PAGE = 2 << 20


class Slot:
    """Memory for one inbound message.

    Parameters
    ----------
    specs
        The tensors of the message, in order.
    header_bytes
        Size of the header that is received together with them, at most 64 bytes.

    Attributes
    ----------
    tensors
        The message's tensors.
    pieces
        The bytes of each tensor, as ``uint8`` tensors of one dimension.
    parts
        The same memory with the header's in front, to be received into. There is only one part
        where the sizes of the tensors allow it, since that takes the least effort.
    """

    parts: Parts

    def __init__(self, specs: Sequence[TensorSpec], header_bytes: int = 0) -> None:
        starts = [0, *itertools.accumulate(spec.nbytes for spec in specs)]
        if all(start % _ALIGNMENT == 0 for start in starts[:-1]):
            memory = _memory(_ALIGNMENT + starts[-1])
            payload = memory[_ALIGNMENT:]
            self.pieces = [payload[a:b] for a, b in itertools.pairwise(starts)]
            self.parts = [memoryview(bytes_of(memory))[_ALIGNMENT - header_bytes :]]
            self._memory = [memory]
        else:
            self.pieces = self._memory = [_memory(spec.nbytes) for spec in specs]
            self.parts = [bytearray(header_bytes), *map(bytes_of, self.pieces)]
        self.tensors = tuple(
            piece.view(getattr(torch, spec.dtype)).reshape(spec.shape)
            for piece, spec in zip(self.pieces, specs, strict=True)
        )

    def filled(self, size: int) -> tuple[torch.Tensor, ...]:
        """The tensor of a message that varies, of which `size` bytes came."""
        return (self.tensors[0][:size],)


def slots(specs: Sequence[TensorSpec], ahead: int, header_bytes: int = 0) -> Iterator[Slot]:
    """Slots for the messages to come, in turn and without end: `ahead` + 1 different ones.

    Parameters
    ----------
    specs, header_bytes
        As in :class:`Slot`.
    ahead
        How many messages may come before the oldest is read: at least the window.
    """
    return itertools.cycle([Slot(specs, header_bytes) for _ in range(ahead + 1)])


def bytes_of(tensor: torch.Tensor) -> ctypes.Array[ctypes.c_ubyte]:
    """The memory of a contiguous tensor, without a copy; the tensor must outlive the result."""
    return (ctypes.c_ubyte * tensor.nbytes).from_address(tensor.data_ptr())


def _memory(size: int) -> torch.Tensor:
    """Memory of `size` bytes, in huge pages where it is large and the kernel has them.

    The kernel's copy and the stage's reads then miss the caches less often: messages of 2.4 and
    12.8 MB take half the time. (Page by page, it depends on the addresses that the kernel chose.)
    """
    if size < _HUGE_PAGE:
        return torch.empty(size, dtype=torch.uint8)
    length = -(-size // _HUGE_PAGE) * _HUGE_PAGE
    pages = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without huge pages
        pages.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(pages, dtype=torch.uint8, count=size)

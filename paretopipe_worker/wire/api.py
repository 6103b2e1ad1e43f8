"""What every wire format provides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch

Buffer = bytes | bytearray | memoryview
"""A packed message."""


class WireError(ValueError):
    """A format that is not there, tensors that it cannot pack, or bytes that it cannot unpack."""


class Packer(Protocol):
    """A wire format for messages of tensors of given shapes and dtypes.

    One thread may pack while another unpacks; two must not do the same at once.

    Attributes
    ----------
    most_bytes
        Size of the largest packed message, known from shapes and dtypes alone.
    """

    @property
    def most_bytes(self) -> int: ...  # noqa: D102 - see above

    def pack(self, tensors: Sequence[torch.Tensor], into: torch.Tensor | None = None) -> Buffer:
        """Pack a message.

        Parameters
        ----------
        tensors
            On the CPU, without gradients, of the given shapes and dtypes. They are only read.
        into
            `most_bytes` numbers of dtype ``uint8``, whose first bytes become the message. Without
            it memory is taken.

        Raises
        ------
        WireError
            When the tensors have other shapes or dtypes, or the format cannot hold their values.
        """

    def unpack(self, packed: Buffer) -> tuple[torch.Tensor, ...]:
        """Unpack a message that a peer sent: contiguous tensors in memory of their own.

        Memory is taken for the given shapes and dtypes, never for a size that the message claims.

        Raises
        ------
        WireError
            When no tensors of these shapes and dtypes pack into such bytes.
        """

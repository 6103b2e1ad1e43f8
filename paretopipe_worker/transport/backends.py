"""The backends, by the names that specs use. This module needs neither torch nor a backend."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Backend:
    """One way of moving tensors across a link.

    Parameters
    ----------
    module
        Full name of the module with its ``connect``; see :mod:`paretopipe_worker.transport.api`.
    least_framing_bytes, most_framing_bytes
        Bounds of what a rank sends for each message beside the tensors' bytes, its answer to the
        message that it received included. A leg that sent more is refused as wrong. In a leg that
        sent less, tensors took another way than the counted connections.
    """

    module: str
    least_framing_bytes: int
    most_framing_bytes: int


BACKENDS = {
    "tcp": Backend("paretopipe_worker.transport.tcp", 32, 100),
    # Pickled arguments, descriptors of the tensors, and an answer to each call.
    "rpc": Backend("paretopipe_worker.transport.rpc", 500, 1600),
    # A header of our own, and for it and for each tensor gloo's three control messages.
    "gloo": Backend("paretopipe_worker.transport.gloo", 250, 1000),
}

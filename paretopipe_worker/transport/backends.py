"""The backends there are, by the names that specs use; needs no torch, nor imports a backend."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Backend:
    """One way of moving tensors across a link.

    Parameters
    ----------
    module
        Where its ``connect`` is; see :mod:`paretopipe_worker.transport.api`.
    least_framing_bytes, most_framing_bytes
        What it sends for a message beside the tensors' bytes, answers to a message that came
        included. A phase whose messages took more went wrong; where they took less, their tensors
        went some other way.
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

"""The backends there are, by the names that specs use; needs no torch, nor imports a backend."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Backend:
    """One way of moving tensors across a link.

    Parameters
    ----------
    module
        Where its ``connect`` is; see :mod:`paretopipe_worker.transport`.
    framing_bytes
        The most that it sends for a message beside the tensors' bytes, answers to a message that
        came included. A phase whose messages took more went wrong.
    """

    module: str
    framing_bytes: int


BACKENDS = {
    "tcp": Backend("paretopipe_worker.transport.tcp", framing_bytes=100),
    # Pickled arguments, descriptors of the tensors, and an answer to each call.
    "rpc": Backend("paretopipe_worker.transport.rpc", framing_bytes=1600),
    # A header of our own, and for it and for each tensor gloo's three control messages.
    "gloo": Backend("paretopipe_worker.transport.gloo", framing_bytes=1000),
}

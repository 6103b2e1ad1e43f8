"""Join a ring of plain TCP connections: listen, reach the next rank, accept the previous one.

Others are met at a doorway (:mod:`.doorway`), which turns strangers away. The control channel is
connected in the same way.
"""

from __future__ import annotations

import socket
from concurrent.futures import Future, ThreadPoolExecutor

from paretopipe_worker.transport.api import Endpoint, TransportError
from paretopipe_worker.transport.connections import Joined
from paretopipe_worker.transport.doorway import Doorway
from paretopipe_worker.transport.handshake import HandshakeError, Identity
from paretopipe_worker.transport.patience import Patience
from paretopipe_worker.transport.reaching import reach

_MOST_RANKS = 1 << 16


def join(endpoint: Endpoint, deadline_s: float) -> tuple[socket.socket, socket.socket]:
    """Return the connection from the previous rank and the one to the next.

    Raises
    ------
    TransportError
        When the own address is in use or not on this host.
    DeadlineExceeded
        When a neighbour did not come in time; the text names it.
    HandshakeError
        When a neighbour disagrees or does not know the secret; each case has a class of its own.
    """
    patience = Patience(deadline_s)
    rank = endpoint.rank
    own = Identity("ring", rank, endpoint.session, endpoint.agreement, endpoint.secret)
    previous = range(rank - 1, rank) if rank else range(1, _MOST_RANKS)  # rank 0: the last rank
    with Doorway(endpoint.own, own) as doorway, ThreadPoolExecutor(1, "join") as pool:
        # Both at the same time: a neighbour may accept only after it was accepted itself.
        reaching = pool.submit(reach, endpoint.next, endpoint.own[0], own, {rank + 1, 0}, patience)
        reaching.add_done_callback(lambda done: patience.give_up() if done.exception() else None)
        try:
            inbound, _ = doorway.admit(previous, patience)
        except BaseException as error:
            patience.give_up()
            raise _cause(reaching, error) from None
        try:
            return inbound, reaching.result()[0]
        except BaseException:
            inbound.close()
            raise


def _cause(reaching: Future[Joined], error: BaseException) -> BaseException:
    """Which error of the two halves of a join to report: each half may have ended the other."""
    other = reaching.exception()
    if other is None:
        reaching.result()[0].close()
        return error
    tells = isinstance(error, HandshakeError) or not isinstance(error, TransportError)
    return error if tells and not isinstance(other, HandshakeError) else other

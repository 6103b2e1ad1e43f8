"""A peer and rings with it, for the contract of every backend."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.helpers.rings import Pair, Peer, paired


@pytest.fixture(scope="package")
def living() -> Iterator[Peer]:
    """The process that all tests share."""
    made = Peer()
    yield made
    made.end()


@pytest.fixture
def peer(living: Peer) -> Peer:
    """The peer, anew where a test has killed it."""
    living.revive()
    return living


@pytest.fixture
def pair(backend: str, peer: Peer) -> Iterator[Pair]:
    """Rank 0 here and rank 1 in the peer."""
    with paired(backend, peer) as joined:
        yield joined

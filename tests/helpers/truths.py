"""Made-up splits whose true latency and throughput are known, and replicates of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def drawn_truth(draws: np.random.Generator, points: int) -> NDArray[np.float64]:
    """Latency and throughput of a model's splits, by the parts of a pipeline."""
    work = draws.dirichlet(np.ones(points + 1))
    before = np.cumsum(work)[:-1] * draws.uniform(1.5, 6)
    behind = 1 - np.cumsum(work)[:-1]
    wire = draws.choice([0.01, 0.1, 0.5]) * np.exp(draws.normal(np.linspace(1, -2, points), 0.7))
    latency = before + behind + wire
    return np.stack([latency, 1 / np.maximum.reduce([before, behind, wire])], axis=1)


def drawn_replicates(
    draws: np.random.Generator,
    truth: NDArray[np.float64],
    count: int,
    spread: float,
    *,
    common: float = 0.08,
) -> NDArray[np.float64]:
    """Replicates with an effect that all points share, and one of each point."""
    shared = draws.normal(0, common, (count, 1, 2))
    own = draws.normal(0, spread, (count, *truth.shape))
    replicates: NDArray[np.float64] = truth * np.exp(shared + own)
    return replicates

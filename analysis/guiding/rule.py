"""The rule of guided sweeps: what is left out, and what is measured next.

It follows epsilon-PAL (Zuluaga, Krause and Püschel, "e-PAL: an active learning approach to the
multi-objective optimization problem", JMLR 17, 2016): each candidate has a box in which its
objectives lie almost surely, and it is left out once nothing in its box could be better than what
is known, by more than epsilon. Only measured points let others be left out here, since a front
holds nothing that was not measured.

Objectives are to be small: logarithms of latency, and of the time per image in steady state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from analysis.guiding.residuals import Beliefs

Array: TypeAlias = NDArray[np.float64]
Flags: TypeAlias = NDArray[np.bool_]
Integers: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class Boxes:
    """Candidates of one group of comparable points, and those of it that were measured.

    Parameters
    ----------
    low, mean, high
        Arrays (n, 2) of candidates; infinite where nothing is known.
    worst
        Array (m, 2) of measured points: the worst that their true values may be.
    """

    low: Array
    mean: Array
    high: Array
    worst: Array

    def covered(self, epsilon: float) -> Integers:
        """Number of a measured point that is as good as each candidate to within epsilon, or -1.

        Of several it is the one that is best by the largest margin.
        """
        if not len(self.worst):
            return np.full(len(self.low), -1)
        margins = (self.low[:, None, :] - self.worst[None, :, :]).min(axis=2)
        best = margins.argmax(axis=1)
        sure = margins.max(axis=1) >= -np.log1p(epsilon)
        found: Integers = np.where(sure, best, -1)
        return found


def nondominated(values: Array, among: Array) -> Flags:
    """Whether nothing among other values is at least as good as each of these and better in one."""
    others, these = among[None, :, :], values[:, None, :]
    dominated = np.all(others <= these, axis=2) & np.any(others < these, axis=2)
    free: Flags = np.logical_not(np.any(dominated, axis=1))
    return free


def next_points(
    low: Array,
    mean: Array,
    groups: Integers,
    beliefs: tuple[Beliefs, Beliefs],
    epsilon: float,
    most: int,
) -> list[int]:
    """Choose candidates such that, if predictions hold, no other need be measured.

    They are chosen one after the other. Each is supposed to measure what is predicted of it, which
    leaves out others and makes those near it more certain. The next is the one that leaves out the
    most, and of several the most uncertain one.

    Parameters
    ----------
    low, mean
        Arrays (n, 2) of all candidates that are not left out.
    groups
        Only points of the same group leave out one another, length n.
    beliefs
        How certain the candidates become, for each objective.
    epsilon
        As a share.
    most
        Points that are chosen at most.

    Returns
    -------
    Numbers of candidates, most wanted first.
    """
    slack, width = np.log1p(epsilon), mean - low
    open_ = np.ones(len(mean), dtype=np.bool_)
    chosen: list[int] = []
    while open_.any() and len(chosen) < most:
        shrunk = np.stack([each.shrunk for each in beliefs], axis=1)
        now = mean - width * shrunk
        here = np.flatnonzero(open_)
        wanted, gain = -1, (-1.0, -1.0)
        for group in np.unique(groups[here]):
            own = here[groups[here] == group]
            leaves = (now[None, own, :] >= mean[own, None, :] - slack).all(axis=2).sum(axis=1)
            spread = (width * shrunk)[own].sum(axis=1)
            order = np.lexsort((spread, leaves))
            best = (float(leaves[order[-1]]), float(spread[order[-1]]))
            if best > gain:
                wanted, gain = int(own[order[-1]]), best
        chosen.append(wanted)
        for each in beliefs:
            each.measure(wanted)
        same = open_ & (groups == groups[wanted])
        shrunk = np.stack([each.shrunk for each in beliefs], axis=1)
        now = mean - width * shrunk
        open_ &= ~(same & (now >= mean[wanted] - slack).all(axis=1))
        open_[wanted] = False
    return chosen

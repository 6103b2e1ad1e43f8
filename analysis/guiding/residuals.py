"""How far predictions are from measurements: a Gaussian process over the places of the cuts.

What predictions miss is partly the same for all points, partly the same for a group of comparable
points, partly smooth along the model, and partly neither. How much of each there is, and over which
distance, is unknown, so several shares are weighted by how well they explain what was measured.
The scale is unknown, too: with an inverse-gamma prior the predictions follow Student's
distribution (Rasmussen and Williams, "Gaussian Processes for Machine Learning", sections 2.2 and
5.2; Gelman et al., "Bayesian Data Analysis", 3rd edition, section 3.3). It is wide where little was
measured, and where what was measured is not smooth.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular
from scipy.spatial.distance import cdist
from scipy.special import logsumexp

Array: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]

_DISTANCES = (0.1, 0.3, 1.0)
_SMOOTH = (0.1, 1.0)
_ROUGH = (0.003, 0.03, 0.3, 3.0)
"""Shares of the smooth part and of the rest, in units of the part that all points share, and
distances over which the smooth part changes."""

PRIOR_DEGREES = 3.0
"""Weight of the prior scale, in measured points."""


@dataclass(frozen=True)
class Places:
    """Where points stand: what the process takes for near.

    Parameters
    ----------
    features
        Array (n, d), each feature from 0 to 1.
    groups
        Number of the group of comparable points of each, length n.
    """

    features: Array
    groups: Integers

    def __getitem__(self, chosen: Integers) -> Places:
        return Places(self.features[chosen], self.groups[chosen])


@dataclass(frozen=True)
class _Shape:
    """A covariance up to its scale."""

    distance: float
    smooth: float
    rough: float

    def between(self, first: Places, second: Places) -> Array:
        """Covariance of points of two lists, without what is each point's own."""
        same = first.groups[:, None] == second.groups[None, :]
        apart = cdist(first.features, second.features, "sqeuclidean")
        near = np.exp(-apart / (2 * self.distance**2))
        covariance: Array = 1.0 + same + self.smooth * near * (1.0 + same) / 2
        return covariance

    @property
    def variance(self) -> float:
        """Variance of a point, its own part included."""
        return 2.0 + self.smooth + self.rough


_SHAPES = tuple(_Shape(*each) for each in itertools.product(_DISTANCES, _SMOOTH, _ROUGH))


@dataclass(frozen=True)
class _Fit:
    """One shape, fitted to what was measured."""

    shape: _Shape
    factor: Array
    whitened: Array
    log_weight: float
    scale: float


class Residuals:
    """What predictions miss, learned from points that were measured.

    Parameters
    ----------
    places
        Of the measured points, n.
    missed
        Measured minus predicted, length n.
    scale
        How large that is expected to be before anything was measured, as a standard deviation.
    """

    def __init__(self, places: Places, missed: Array, scale: float) -> None:
        self._places = places
        self.degrees = PRIOR_DEGREES + len(missed)
        fits = [self._fit(shape, missed, scale) for shape in _SHAPES]
        weights = np.array([fit.log_weight for fit in fits])
        self._weights = np.exp(weights - logsumexp(weights))
        self._fits = fits

    def _fit(self, shape: _Shape, missed: Array, scale: float) -> _Fit:
        """Condition one shape on what was measured; its weight is the marginal likelihood."""
        covariance = shape.between(self._places, self._places) + shape.rough * np.eye(len(missed))
        factor = cholesky(covariance / shape.variance, lower=True)
        whitened = solve_triangular(factor, missed, lower=True)
        squares = PRIOR_DEGREES * scale**2 + float(whitened @ whitened)
        log_weight = -np.log(np.diag(factor)).sum() - 0.5 * self.degrees * np.log(squares)
        return _Fit(shape, factor, whitened, float(log_weight), squares / self.degrees)

    def at(self, places: Places) -> tuple[Array, Array]:
        """Mean and scale of what predictions miss at other points, by Student's distribution.

        Returns
        -------
        Two arrays of length n; the degrees of freedom are :attr:`degrees`.
        """
        mean, square = np.zeros(len(places.groups)), np.zeros(len(places.groups))
        for weight, fit in zip(self._weights, self._fits, strict=True):
            if weight < 1e-3:
                continue
            across = fit.shape.between(self._places, places) / fit.shape.variance
            explained = solve_triangular(fit.factor, across, lower=True)
            own = explained.T @ fit.whitened
            left = np.maximum(1.0 - (explained**2).sum(axis=0), 1e-12)
            mean += weight * own
            square += weight * (fit.scale * left + own**2)
        return mean, np.sqrt(np.maximum(square - mean**2, 0.0))

    def believing(self, places: Places) -> Beliefs:
        """How the scales at other points would shrink if some of them were measured."""
        best = self._fits[int(np.argmax(self._weights))]
        across = best.shape.between(self._places, places) / best.shape.variance
        return Beliefs(best.shape, places, solve_triangular(best.factor, across, lower=True))


class Beliefs:
    """How uncertain points stay when some more of them are measured, by the likeliest shape.

    Parameters
    ----------
    explained
        Array (measured, n): whitened covariance of what was measured with the points.
    """

    def __init__(self, shape: _Shape, places: Places, explained: Array) -> None:
        self._shape, self._places, self._explained = shape, places, explained
        self._first = self._left()

    def _left(self) -> Array:
        left: Array = np.maximum(1.0 - (self._explained**2).sum(axis=0), 1e-12)
        return left

    def only(self, chosen: Integers) -> Beliefs:
        """The same for some of the points."""
        return Beliefs(self._shape, self._places[chosen], self._explained[:, chosen])

    def measure(self, point: int) -> None:
        """Suppose that a point is measured."""
        one = self._places[np.array([point])]
        across = self._shape.between(one, self._places)[0] / self._shape.variance
        across[point] = 1.0
        gained = across - self._explained[:, point] @ self._explained
        own = max(float(gained[point]), 1e-12)
        self._explained = np.vstack([self._explained, gained / np.sqrt(own)])

    @property
    def shrunk(self) -> Array:
        """Scales of the points, in units of what they were before any was supposed measured."""
        shares: Array = np.sqrt(self._left() / self._first)
        return shares

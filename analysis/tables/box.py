"""The box in which fronts are compared: each objective from its best value to its worst.

Objectives have units of their own, and areas or distances across them mean nothing. In the box each
is scaled to 0 at the best value of all points that are compared and to 1 at the worst, which is the
reference point of the hypervolume. Fronts in one box can be compared; those in two cannot.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import moocore  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray
from scipy import stats

from analysis.column import LEAST_REPLICATES
from analysis.measures.reduction import CONFIDENCE

Array: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Box:
    """Best and worst value of each objective, and which way is better.

    Parameters
    ----------
    objectives
        Columns, and whether less (``min``) or more (``max``) of each is better: m of them.
    ideal, reference
        The best and the worst value of each objective in its own unit, of shape (m,).
    """

    objectives: Mapping[str, str]
    ideal: Array
    reference: Array

    @classmethod
    def around(cls, values: Array, objectives: Mapping[str, str]) -> Box:
        """The box of points (n, m), n at least 1, that are finite."""
        least, most = values.min(axis=0), values.max(axis=0)
        more_is_better = np.array([way == "max" for way in objectives.values()])
        ideal, reference = (
            np.where(more_is_better, *ends) for ends in ((most, least), (least, most))
        )
        return cls(objectives, ideal, reference)

    @property
    def flat(self) -> list[str]:
        """Objectives in which no two points differ: there is no box then."""
        same = self.ideal == self.reference
        return [name for name, alike in zip(self.objectives, same, strict=True) if alike]

    def scaled(self, values: Array) -> Array:
        """Points (n, m) in the box: 0 is the best of each objective, 1 the worst."""
        scaled: Array = (values - self.ideal) / (self.reference - self.ideal)
        return scaled

    def hypervolume(self, values: Array) -> float:
        """How much some of the points (n, m) dominate, in boxes; more is better.

        It is 1 where a point is the ideal, and more where one is beyond it (Zitzler and Thiele,
        "Multiobjective evolutionary algorithms: a comparative case study", IEEE Trans. Evolutionary
        Computation 3, 1999).
        """
        corner = [1.0] * len(self.objectives)
        return float(moocore.hypervolume(self.scaled(values), ref=corner))

    def epsilon(self, values: Array, other: Array) -> float:
        """Additive epsilon of points (n, m) against another front; less is better.

        It is by how much of the box each objective must be bettered so that every point of the
        other front is met: 0 where these are as good already, less where they are better (Zitzler
        et al., "Performance assessment of multiobjective optimizers", IEEE Trans. Evolutionary
        Computation 7, 2003).
        """
        return float(moocore.epsilon_additive(self.scaled(values), ref=self.scaled(other)))

    def hypervolumes(self, replicates: Array) -> Array:
        """What each replicate says of the hypervolume of the means over all: jackknife's values.

        The hypervolume of means is no mean of hypervolumes: a replicate's own front is better than
        the true one by chance. The pseudo-values of the jackknife can be averaged all the same
        (Tukey, "Bias and confidence in not-quite large samples", Annals of Math. Stat. 29, 1958).

        Parameters
        ----------
        replicates
            Array (replicates, n, m), nothing missing, at least two replicates.

        Returns
        -------
        Array (replicates,).
        """
        count, total = len(replicates), replicates.sum(axis=0)
        without = [self.hypervolume((total - each) / (count - 1)) for each in replicates]
        whole = self.hypervolume(total / count)
        pseudo: Array = count * whole - (count - 1) * np.array(without)
        return pseudo

    def told(self, place: Array) -> str:
        """A place in the box, such as its reference point, as JSON by objective."""
        return json.dumps(dict(zip(self.objectives, map(float, place), strict=True)))


def half_width(values: Sequence[float] | Array) -> float | None:
    """Half of the t-interval of the mean of replicates; None where they are too few."""
    count = len(values)
    if count < LEAST_REPLICATES:
        return None
    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)
    return float(quantile * np.std(values, ddof=1) / np.sqrt(count))

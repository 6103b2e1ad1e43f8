"""The fronts of two runs against each other, as a whole: hypervolume and additive epsilon."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from analysis.column import LEAST_REPLICATES, OBJECTIVES
from analysis.measures.reduction import CONFIDENCE
from analysis.tables.box import Array, Box
from analysis.tables.front import GROUP


def welch(first: ArrayLike, second: ArrayLike) -> tuple[float, float, float]:
    """Difference of two means (second minus first), half of its interval, and its p-value.

    Parameters
    ----------
    first, second
        At least two values each.
    """
    a, b = (np.asarray(values, dtype=np.float64) for values in (first, second))
    difference = float(b.mean() - a.mean())
    if np.ptp(a) == 0 and np.ptp(b) == 0:
        # Constant values have no variance to test with.
        return difference, 0.0, float(difference == 0)
    found = stats.ttest_ind(b, a, equal_var=False)
    low, high = found.confidence_interval(CONFIDENCE)
    return difference, float(high - low) / 2, float(found.pvalue)


def fronts(sides: Sequence[pd.DataFrame]) -> list[dict[str, Any]]:
    """Compare the fronts of two runs, of the splits that both measured.

    Parameters
    ----------
    sides
        For each run one row per point and replicate that counts, with the columns of
        :data:`analysis.tables.front.GROUP`, ``split``, ``replicate`` and the objectives.

    Returns
    -------
    One row for each group in which at least two splits differ in both objectives: its columns;
    ``points``; ``reference`` and ``ideal`` of the box around the means of both runs, as JSON (see
    :class:`analysis.tables.box.Box`); for each run its ``hypervolume``, its number of
    ``replicates`` that measured all points, and ``epsilon``, by how much of the box its front must
    be bettered to meet the other's; the ``difference`` of the hypervolumes, second less first, with
    its Welch interval ``low`` and ``high`` over jackknife's values, None where a run has fewer than
    three such replicates.
    """
    groups = [dict(list(side.groupby(list(GROUP), sort=False))) for side in sides]
    rows = []
    for key in groups[0]:
        if key in groups[1]:
            found = _compared([_arrays(group) for group in _shared(*(g[key] for g in groups))])
            rows += [dict(zip(GROUP, key, strict=True)) | row for row in found]
    return rows


def _shared(*sides: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """The rows of splits that both sides measured."""
    whole = [side.dropna(subset=list(OBJECTIVES)) for side in sides]
    both = set(whole[0]["split"]) & set(whole[1]["split"])
    for side in whole:
        yield side[side["split"].isin(both)]


def _arrays(side: pd.DataFrame) -> tuple[Array, Array]:
    """Means of the splits in the order of their names (n, m), and their complete replicates."""
    tables = [
        side.pivot(index="replicate", columns="split", values=name).sort_index(axis=1)
        for name in OBJECTIVES
    ]
    values = np.stack([table.to_numpy(dtype=np.float64) for table in tables], axis=2)
    complete = values[np.isfinite(values).all(axis=(1, 2))]
    return np.nanmean(values, axis=0), complete


def _compared(sides: Sequence[tuple[Array, Array]]) -> Iterator[dict[str, Any]]:
    """The comparison of one group; nothing where there is no box to compare in."""
    means = [mean for mean, _ in sides]
    if not len(means[0]):
        return
    box = Box.around(np.concatenate(means), OBJECTIVES)
    if box.flat:
        return
    volumes = [box.hypervolume(mean) for mean in means]
    counts = [len(replicates) for _, replicates in sides]
    row = {
        "points": len(means[0]),
        "ideal": box.told(box.ideal),
        "reference": box.told(box.reference),
        "hypervolume": volumes,
        "replicates": counts,
        "epsilon": [box.epsilon(*means), box.epsilon(*reversed(means))],
        "difference": (difference := volumes[1] - volumes[0]),
        "low": None,
        "high": None,
    }
    if min(counts) >= LEAST_REPLICATES:
        _, half, _ = welch(*(box.hypervolumes(replicates) for _, replicates in sides))
        row |= {"low": difference - half, "high": difference + half}
    yield row

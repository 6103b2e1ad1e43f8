"""One split for all links: the one whose worst disadvantage is the smallest."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from analysis.column import OBJECTIVES
from analysis.measures import marks
from analysis.tables.front import GROUP
from paretopipe_worker.plan.labels import cuts_of, everything_on, hosts_of

SHARED = tuple(name for name in GROUP if name != "link")
"""What splits that are compared over links have in common."""


def across_links(points: pd.DataFrame, *, uncertified: bool = False) -> list[dict[str, Any]]:
    """The split of least worst-case regret over all links, by objective.

    The regret of a split over a link is by which share of the best split's figure there it is worse
    (Savage, "The theory of statistical decision", J. American Statistical Association 46, 1951). A
    split is compared only if it was measured over every link of its group.

    Parameters
    ----------
    points
        The table ``points.csv``.
    uncertified
        Whether points whose link was not as asked for count.

    Returns
    -------
    For each group of at least two links its columns, ``objective``, ``split``, ``regret`` (a
    share), the ``link`` over which it is that, and ``links``, how many there are.
    """
    counted = marks.counted(points, all_links=uncertified)
    found = []
    for key, group in counted.groupby(list(SHARED), sort=False):
        about = dict(zip(SHARED, key, strict=True))
        for objective, direction in OBJECTIVES.items():
            figures = group.pivot(index="split", columns="link", values=objective).dropna()
            if figures.shape[1] < 2 or figures.empty:
                continue
            values = figures.to_numpy(dtype=np.float64)
            ratio = (
                values / values.min(axis=0) if direction == "min" else values.max(axis=0) / values
            )
            worst = (ratio - 1).max(axis=1)
            least = int(worst.argmin())
            split = str(figures.index[least])
            hosts = hosts_of(str(about["placement"]))
            found.append(
                about
                | {
                    "objective": objective,
                    "split": everything_on(cuts_of(split), hosts) or split,
                    "regret": float(worst[least]),
                    "link": str(figures.columns[int(ratio[least].argmax())]),
                    "links": figures.shape[1],
                }
            )
    return found

"""The table ``stages.csv``: how each rank computed and how its host was, point by point."""

from __future__ import annotations

import pandas as pd

from analysis.column import Column
from analysis.measures import computing, energy, hosts, ranks
from analysis.measures.legs import TRY, that_count
from analysis.measures.portions import parts
from analysis.measures.reduction import reduced
from analysis.run import Run

_MEASURED = (*computing.columns(), *hosts.COLUMNS, *energy.RANK_COLUMNS)

COLUMNS: tuple[Column, ...] = (
    *ranks.COLUMNS,
    Column("rank", "", "Rank of the stage; only ranks that have a part in the split are here."),
    Column("host", "", "The host of that rank."),
    Column(
        "sends_bytes",
        "bytes",
        "Tensor data of one item that it sends to the next rank, or, as the last, back to rank 0.",
    ),
    *computing.columns(),
    Column(
        "device_emulated",
        "",
        "Factor by which the host's computation is stretched: its CPU time where it computes with "
        "one thread, its wall time where with several; 1 for none.",
    ),
    *hosts.COLUMNS,
    *energy.RANK_COLUMNS,
)


def stages(run: Run, measured: pd.DataFrame) -> pd.DataFrame:
    """Every rank that takes part in a point of the plan, with what was measured of it.

    Parameters
    ----------
    run
        The run.
    measured
        Its replicates, see :func:`analysis.measures.replicates.replicates`.

    Returns
    -------
    The columns :data:`COLUMNS`, in the order of the plan's points.
    """
    planned = ranks.ranks_of(run.plan)
    complete = measured.loc[measured["status"] == "ok", TRY]
    portion = [_figures(part, complete) for part in parts(run)]
    # A rank without items leaves the mean over replicates null.
    by_try = complete.merge(planned[["point", "rank"]], on="point")
    for alike in zip(*portion, strict=True):
        figure = pd.concat(alike, ignore_index=True)
        by_try = by_try.merge(figure, on=[*TRY, "rank"], how="left")
    table = planned.merge(
        reduced(by_try, ["point", "rank"], _MEASURED), on=["point", "rank"], how="left"
    )
    return table[[column.name for column in COLUMNS]]


def _figures(run: Run, complete: pd.DataFrame) -> tuple[pd.DataFrame, ...]:
    """What the tries that count measured of each rank."""
    items, ends = that_count(run, complete)
    return (
        computing.computing(items),
        hosts.hosts(ends),
        energy.by_rank(ends, run.plan, run.rests),
    )

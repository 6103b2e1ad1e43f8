"""Energy per image, from what the hosts' counters counted during throughput legs that count."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.column import MEAN, TOGETHER, UNMEASURED, Column
from analysis.measures.legs import TRY
from paretopipe_worker.plan.plan import Plan
from paretopipe_worker.records.energy import Energy

_PHASE = "throughput"

RANK_COLUMNS = (
    Column(
        "energy_j_per_image",
        "J",
        "Energy that the rank's host used per image in the throughput phase: difference of the "
        "host's counters over the leg, divided by its images, those of the warm-up and the drain "
        "included, then the mean over replicates. It is what `energy_source` counts, whatever else "
        "runs there: on a computer that is several hosts, each has the energy of all.",
        f"a replicate has none (see `energy_note`), or {UNMEASURED}",
        over=MEAN,
    ),
    Column(
        "energy_source",
        "",
        "What was counted, joined by `+`: `rapl package-N`, a package of processors, without "
        "memory outside it; `nvml N`, a GPU of NVIDIA; `hwmon CHIP COUNTER`, what is behind that "
        "sensor.",
        f"the host has no counter, or {UNMEASURED}",
        over=TOGETHER,
    ),
    Column(
        "energy_note",
        "",
        "Why a replicate has no energy: no counter, one that cannot be read, that stood still or "
        "went backwards, or that may have begun again unseen.",
        f"every replicate has one, its records are older than this, or {UNMEASURED}",
        over=TOGETHER,
    ),
)
"""Columns of ``stages.csv``."""

COLUMNS = (
    Column(
        "energy_j_per_image",
        "J",
        "Energy per image in the throughput phase: sum over the ranks that take part, then the "
        "mean over replicates. stages.csv has it by rank, with what was counted. Hosts that take "
        "no part are not in it.",
        "in a replicate, a rank that takes part has none (stages.csv says why), or two such ranks "
        "ran on one computer, whose energy would count twice, or on computers that cannot be told "
        f"apart; or {UNMEASURED}",
        over=MEAN,
    ),
)
"""Columns of ``points.csv``."""


def by_rank(counted: pd.DataFrame, plan: Plan) -> pd.DataFrame:
    """Energy per image of each rank in each try.

    Parameters
    ----------
    counted
        Ends of the legs that count, of all ranks.

    Returns
    -------
    One row per try and rank: the columns of :data:`analysis.measures.legs.TRY`, rank, and
    :data:`RANK_COLUMNS`.
    """
    ends = counted[counted["phase"] == _PHASE]
    batches = {point.id: point.batch for point in plan.points}
    rows = [
        _per_image(energy, batches[point])
        for energy, point in zip(ends["energy"], ends["point"], strict=True)
    ]
    names = [column.name for column in RANK_COLUMNS]
    values = pd.DataFrame(rows, index=ends.index, columns=names)
    return pd.concat([ends[[*TRY, "rank"]], values.astype({names[0]: "float64"})], axis=1)


def by_point(counted: pd.DataFrame, plan: Plan, stages: pd.DataFrame) -> pd.DataFrame:
    """Energy per image of each try, all ranks together.

    Parameters
    ----------
    counted
        Ends of the legs that count; a try that counts has them of every rank that takes part.
    stages
        The files that stages wrote, see :attr:`analysis.run.Run.stages`.

    Returns
    -------
    One row per try: the columns of :data:`analysis.measures.legs.TRY` and :data:`COLUMNS`.
    """
    file = ["session", "attempt", "rank"]
    # The kernel draws this id as it starts, and namespaces of one kernel share it.
    boots = stages[file].assign(boot=[facts.get("boot_id") for facts in stages["facts"]])
    ranks = by_rank(counted, plan).merge(boots, on=file, how="left")
    (name,) = (column.name for column in COLUMNS)
    groups = ranks.groupby(TRY)
    total = groups[name].sum(skipna=False)
    apart = (groups["boot"].nunique() == groups.size()) | (groups.size() == 1)
    return total.where(apart).reset_index()


def _per_image(energy: Energy | None, batch: int) -> tuple[Any, ...]:
    """One leg's values of :data:`RANK_COLUMNS`."""
    if energy is None:
        return None, None, None
    images, joules = energy.items * batch, energy.joules
    per_image = joules / images if joules is not None and images else None
    return per_image, energy.source, energy.reason

"""Energy per image, from what hosts used during throughput legs that count, and at rest."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.column import FEWEST, LEAST, MEAN, TOGETHER, UNMEASURED, Column
from analysis.measures.legs import TRY
from analysis.run import Run
from paretopipe_worker.plan.plan import Plan
from paretopipe_worker.records.energy import Energy

_PHASE = "throughput"
_FILE = ["session", "attempt", "rank"]
_NO_REST = "the host's power at rest is not known, or was read from something else"

RANK_COLUMNS = (
    Column(
        "energy_j_per_image",
        "J",
        "Energy that the rank's host used per image in the throughput phase: what its counters "
        "counted over the leg, or the integral of its power, divided by its images, those of the "
        "warm-up and the drain included, then the mean over replicates. It is what "
        "`energy_source` sees, whatever else runs there: on a computer that is several hosts, each "
        "has the energy of all.",
        f"a replicate has none (see `energy_note`), or {UNMEASURED}",
        over=MEAN,
    ),
    Column(
        "energy_above_idle_j_per_image",
        "J",
        "The same without what the host would have used at rest, `idle_w` times the leg's time. It "
        "is below 0 where the leg took less than that.",
        f"a replicate has no energy, {_NO_REST}, or {UNMEASURED}",
        over=MEAN,
    ),
    Column(
        "idle_w",
        "W",
        "Power that the host used before the session's first point, while all its ranks rested "
        "(with their background load, at points whose hosts are busy), mean over replicates.",
        f"a replicate has none (see `idle_note`), or {UNMEASURED}",
        over=MEAN,
    ),
    Column(
        "energy_source",
        "",
        "What told the energy, joined by `+`. Counters: `rapl package-N`, `nvml N`, `hwmon CHIP "
        "COUNTER`. Power that was sampled: `hwmon CHIP power`; `pmic_partial`, the power chip of a "
        "Raspberry Pi 5, which sees a part of the board.",
        f"the host has neither, or {UNMEASURED}",
        over=TOGETHER,
    ),
    Column(
        "energy_scope",
        "",
        "Whose energy that is.",
        f"the host has neither, the records are older than this, or {UNMEASURED}",
        over=TOGETHER,
    ),
    Column(
        "energy_rate_hz",
        "1/s",
        "Samples of the power per second, as asked for; lowest over replicates.",
        f"counters were read, or {UNMEASURED}",
        over=LEAST,
    ),
    Column(
        "energy_samples",
        "samples",
        "Samples in the throughput leg, fewest over replicates.",
        f"counters were read, the source failed, or {UNMEASURED}",
        over=FEWEST,
    ),
    Column(
        "energy_note",
        "",
        "Why a replicate has no energy: nothing that tells it, or it cannot be read, stood still, "
        "went backwards, may have begun again unseen, or told too few samples.",
        f"every replicate has one, its records are older than this, or {UNMEASURED}",
        over=TOGETHER,
    ),
    Column(
        "idle_note",
        "",
        "Why a replicate has no power at rest, in the same words.",
        f"every replicate has one, its records are older than this, or {UNMEASURED}",
        over=TOGETHER,
    ),
)
"""Columns of ``stages.csv``."""

_TOTAL_NULL = (
    "in a replicate, a rank that takes part has none (see stages.csv), or two such ranks ran on "
    "one computer, whose energy would count twice, or on computers that cannot be told apart; or "
    f"{UNMEASURED}"
)

COLUMNS = (
    Column(
        "energy_j_per_image",
        "J",
        "Energy per image in the throughput phase: sum over the ranks that take part, then the "
        "mean over replicates. stages.csv has it by rank, with what was counted. Hosts that take "
        "no part are not in it.",
        _TOTAL_NULL,
        front=True,
        over=MEAN,
    ),
    Column(
        "energy_above_idle_j_per_image",
        "J",
        "The same sum of what each rank used above its host's power at rest.",
        _TOTAL_NULL,
        over=MEAN,
    ),
)
"""Columns of ``points.csv``."""


def by_rank(counted: pd.DataFrame, plan: Plan, rests: pd.DataFrame) -> pd.DataFrame:
    """Energy per image of each rank in each try.

    Parameters
    ----------
    counted
        Ends of the legs that count, of all ranks.
    rests
        What hosts used at rest, see :attr:`analysis.run.Run.rests`.

    Returns
    -------
    One row per try and rank: the columns of :data:`analysis.measures.legs.TRY`, rank, and
    :data:`RANK_COLUMNS`.
    """
    ends = counted[counted["phase"] == _PHASE]
    batches = {point.id: point.batch for point in plan.points}
    files = zip(*(rests[name] for name in _FILE), strict=True)
    at_rest: dict[tuple[Any, ...], Energy] = dict(zip(files, rests["energy"], strict=True))
    rows = [
        _per_image(energy, batches[point], at_rest.get(tuple(file)))
        for energy, point, *file in zip(
            ends["energy"], ends["point"], *(ends[name] for name in _FILE), strict=True
        )
    ]
    names = [column.name for column in RANK_COLUMNS]
    values = pd.DataFrame(rows, index=ends.index, columns=names)
    numbers = [*(column.name for column in RANK_COLUMNS if column.over is MEAN), "energy_rate_hz"]
    values = values.astype(dict.fromkeys(numbers, "float64") | {"energy_samples": "Int64"})
    return pd.concat([ends[[*TRY, "rank"]], values], axis=1)


def by_point(counted: pd.DataFrame, run: Run) -> pd.DataFrame:
    """Energy per image of each try, all ranks together.

    Parameters
    ----------
    counted
        Ends of the legs that count; a try that counts has them of every rank that takes part.

    Returns
    -------
    One row per try: the columns of :data:`analysis.measures.legs.TRY` and :data:`COLUMNS`.
    """
    # The kernel draws this id as it starts, and namespaces of one kernel share it.
    stages = run.stages
    boots = stages[_FILE].assign(boot=[facts.get("boot_id") for facts in stages["facts"]])
    ranks = by_rank(counted, run.plan, run.rests).merge(boots, on=_FILE, how="left")
    groups = ranks.groupby(TRY)
    total = groups[[column.name for column in COLUMNS]].sum(skipna=False)
    apart = (groups["boot"].nunique() == groups.size()) | (groups.size() == 1)
    return total.mask(~apart, axis="index").reset_index()


def _per_image(energy: Energy | None, batch: int, rest: Energy | None) -> tuple[Any, ...]:
    """One leg's values of :data:`RANK_COLUMNS`."""
    idle_w = rest.joules / rest.seconds if rest and rest.joules is not None else None
    idle_note = rest.reason if rest else None
    if energy is None:
        return None, None, idle_w, *[None] * 5, idle_note
    images, joules = energy.items * batch, energy.joules
    per_image = above = None
    if joules is not None and images:
        per_image = joules / images
        if idle_w is not None and rest and rest.source == energy.source:
            above = (joules - idle_w * energy.seconds) / images
    told = (energy.source, energy.scope, energy.rate_hz, energy.samples, energy.reason)
    return per_image, above, idle_w, *told, idle_note

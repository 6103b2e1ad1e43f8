"""Whether splitting pays: the best cut against the best single host, in a sentence.

The best cut is chosen by the same replicates by which it is then judged. Of many cuts that are
alike the one chosen is therefore a little better here than it would be in a run of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from analysis.column import LEAST_REPLICATES, OBJECTIVES
from analysis.measures import marks
from analysis.measures.reduction import CONFIDENCE
from analysis.tables.certainty import SURE
from analysis.tables.front import GROUP
from paretopipe_worker.plan.labels import cuts_of, everything_on, hosts_of

LATENCY, THROUGHPUT = OBJECTIVES

UNKNOWN = "whether splitting pays is not known"
"""The headline where it was not measured."""

UNSURE = f" (fewer than {LEAST_REPLICATES} replicates: how sure is not known)"
"""What is added to a verdict without intervals."""


@dataclass(frozen=True)
class Gain:
    """What the best cut brings in one objective, beside the best single host.

    Parameters
    ----------
    cut
        The split.
    host
        The single host, as ``all on server``.
    ratio
        How many times better the cut is; below 1 it is worse.
    low, high
        The t-interval of that ratio, None with fewer than three replicates of both.
    probability
        That the cut is better, by the same distribution; None likewise.
    """

    objective: str
    cut: str
    host: str
    ratio: float
    low: float | None = None
    high: float | None = None
    probability: float | None = None

    @property
    def verdict(self) -> str:
        """``better``, ``worse``, or ``open`` where replicates do not tell."""
        if self.probability is None or not 1 - SURE < self.probability < SURE:
            return "better" if self.ratio > 1 else "worse"
        return "open"


def verdicts(
    points: pd.DataFrame, measured: pd.DataFrame, *, uncertified: bool = False
) -> list[dict[str, Any]]:
    """A verdict for each model, link and so on (:data:`analysis.tables.front.GROUP`).

    Parameters
    ----------
    points
        The table ``points.csv``.
    measured
        One row per point and replicate, see :func:`analysis.measures.replicates.replicates`.
    uncertified
        Whether points whose link was not as asked for count.

    Returns
    -------
    For each group its columns, ``gains`` by objective, each with its ``clause``, and the verdict as
    ``text``, which begins with its ``headline``.
    """
    counted = marks.counted(points, all_links=uncertified)
    counted = counted.dropna(subset=list(OBJECTIVES))
    complete = measured[measured["status"] == "ok"]
    replicates = {
        name: complete.pivot(index="replicate", columns="point", values=name).astype("float64")
        for name in OBJECTIVES
    }
    found = []
    for _, group in points.groupby(list(GROUP), sort=False):
        own = counted[counted.index.isin(group.index)]
        gains = {gain.objective: gain for gain in _gains(own, replicates)}
        about: dict[str, Any] = {name: group.iloc[0][name] for name in GROUP}
        shown = {
            name: vars(gain) | {"verdict": gain.verdict, "clause": _clause(gain)}
            for name, gain in gains.items()
        }
        text, start = (said(gains), headline(gains)) if gains else (_nothing(own), UNKNOWN)
        found.append(about | {"gains": shown, "text": text, "headline": start})
    return found


def headline(gains: Mapping[str, Gain]) -> str:
    """The verdict on one group in a few words."""
    pays = [_NOUN[name] for name, gain in gains.items() if gain.verdict == "better"]
    if pays:
        return f"splitting pays in {' and in '.join(pays)}"
    if any(gain.verdict == "open" for gain in gains.values()):
        return "it is not resolved whether splitting pays"
    return "splitting does not pay"


def said(gains: Mapping[str, Gain]) -> str:
    """The verdict on one group as a sentence."""
    unsure = any(gain.probability is None for gain in gains.values())
    return f"{headline(gains)}: {'; '.join(map(_clause, gains.values()))}{UNSURE * unsure}"


def _gains(points: pd.DataFrame, replicates: Mapping[str, pd.DataFrame]) -> Iterator[Gain]:
    """What the best cut of a group brings in each objective; nothing where there is no choice.

    `replicates` holds the values of each objective by replicate (rows) and point (columns).
    """
    pairs = zip(points["split"], points["placement"], strict=True)
    hosts = pd.Series(
        [everything_on(cuts_of(split), hosts_of(placed)) for split, placed in pairs],
        index=points.index,
        dtype="object",
    )
    alone, cuts = points[hosts.notna()], points[hosts.isna()]
    if alone.empty or cuts.empty:
        return
    for objective, direction in OBJECTIVES.items():
        best = cuts.loc[_best(cuts[objective], direction)]
        host = alone.loc[_best(alone[objective], direction)]
        values = replicates[objective].reindex(columns=[best["point"], host["point"]])
        ratio = float(best[objective] / host[objective])
        sure = _sure((values.iloc[:, 0] / values.iloc[:, 1]).dropna().map(np.log), direction)
        better = 1 / ratio if direction == "min" else ratio
        yield Gain(objective, str(best["split"]), str(hosts[host.name]), better, *sure)


def _best(values: pd.Series, direction: str) -> Any:
    """Index of the best value."""
    return values.idxmin() if direction == "min" else values.idxmax()


def _sure(logarithms: pd.Series, direction: str) -> tuple[float | None, float | None, float | None]:
    """Interval of a ratio, and the probability that it is above 1, from paired replicates."""
    count = len(logarithms)
    if count < LEAST_REPLICATES:
        return None, None, None
    values = -logarithms if direction == "min" else logarithms
    mean, error = float(values.mean()), float(values.std(ddof=1)) / count**0.5
    if error == 0:
        return np.exp(mean), np.exp(mean), float(mean > 0)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)) * error
    probability = float(stats.t.cdf(mean / error, count - 1))
    return float(np.exp(mean - half)), float(np.exp(mean + half)), probability


_NOUN = {LATENCY: "latency", THROUGHPUT: "throughput"}


def _clause(gain: Gain) -> str:
    """What one objective's gain is, in words."""
    low, high = gain.low, gain.high
    known = "" if low is None or high is None else f" ({CONFIDENCE:.0%}: {_span(low, high, gain)})"
    size = f"{_percent(_change(gain.ratio, gain.objective))} %"
    if gain.objective == LATENCY:
        more, less, most = f"answers {size} sooner", f"answers {size} later", "sooner"
    else:
        more, less, most = f"brings {size} more images/s", f"brings {size} less", "more images/s"
    where = f"a cut behind {gain.cut}"
    if gain.verdict == "better":
        return f"{where} {more} than {gain.host}{known}"
    verb = "answers" if gain.objective == LATENCY else "brings"
    if gain.verdict == "open":
        there = more if gain.ratio > 1 else less
        return f"whether a cut {verb} {most} than {gain.host} is open: {where} {there}{known}"
    return f"no cut {verb} {most} than {gain.host}: the best, behind {gain.cut}, {less}{known}"


def _change(ratio: float, objective: str) -> float:
    """How much better or worse than the host's own figure, as a share of it, without a sign."""
    return abs(1 - 1 / ratio) if objective == LATENCY else abs(ratio - 1)


def _span(low: float, high: float, gain: Gain) -> str:
    """An interval in the words' direction: per cent better, or worse, with signs."""
    sign = 1 if gain.ratio > 1 else -1
    changes = [
        sign * (1 - 1 / each if gain.objective == LATENCY else each - 1) for each in (low, high)
    ]
    first, second = sorted(changes)
    return f"{_percent(first)} to {_percent(second)} %"


def _percent(share: float) -> str:
    """A share in per cent, with a decimal where it is small."""
    value = 100 * share
    return f"{value:.0f}" if abs(value) >= 10 else f"{value:.1f}"


def _nothing(points: pd.DataFrame) -> str:
    """Why there is no verdict."""
    if points.empty:
        return f"{UNKNOWN}: no point has both figures over a link as asked"
    return f"{UNKNOWN}: a cut, or all on a single host, was not measured"

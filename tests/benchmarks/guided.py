"""Guided sweeps replayed on runs that measured every point.

An oracle answers from a run's replicates in place of its hosts, so the guide sees what it would
have seen. The figure found is by what share the front of the points that were measured is worse
than the whole front, in the run's worst group of comparable points (additive epsilon indicator of
logarithms). Beside it stands random choice of as many: all endpoints, and other points drawn.

`--live GUIDED ALL` judges a sweep that was guided in earnest: the points that it measured, by what
another sweep of the same experiment measured of all points.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.style import DPI, STYLE, palette
from analysis.guiding.candidates import Predictor
from analysis.measures.replicates import replicates
from analysis.prediction.predicting import predictions
from analysis.run import read
from paretopipe_worker.plan import generations, outset
from paretopipe_worker.plan.generations import Generation
from paretopipe_worker.plan.plan import Plan
from paretopipe_worker.plan.strategy import GuideSpec
from tests.benchmarks.report import Check, parser, show
from tests.helpers.replaying import Fronts, figures, replay

USUAL = GuideSpec()

SHARE, LARGE = 0.25, 100
"""Most points that are measured, as a share, of runs that have so many or more."""


@dataclass(frozen=True)
class Curves:
    """By what share fronts are worse, in per cent, by the number of points measured.

    `chosen` are random choices, an array (choices, counts) at the numbers `counts`; `how` says
    whether the run was replayed or measured live.
    """

    run: str
    how: str
    points: int
    guided: tuple[float, ...]
    endpoints: int
    counts: tuple[int, ...]
    chosen: np.ndarray


def curves(path: Path, spec: GuideSpec, predictor: Predictor, seeds: int) -> tuple[Curves, int]:
    """Replay one run; the curves, and the number of generations."""
    run = read(path)
    measured = replicates(run)
    replayed = replay(run, measured, predictor, spec)
    table = figures(run.plan, measured)
    found = _judged(run.plan, "replayed", table, replayed.points, seeds)
    return found, len(replayed.generations)


def live(guided: Path, whole: Path, seeds: int) -> tuple[Curves, int]:
    """Judge a sweep that was guided by another one that measured every point.

    Raises
    ------
    ValueError
        When the two do not have the same points, or the first one was not guided.
    """
    run, other = read(guided), read(whole)
    if [point.id for point in run.plan.points] != [point.id for point in other.plan.points]:
        raise ValueError(f"{guided} and {whole} do not have the same points")
    chosen = [
        line for line in generations.read(run.plan, guided).lines if isinstance(line, Generation)
    ]
    if not chosen:
        raise ValueError(f"{guided} has no generations.jsonl: its sweep was not guided")
    order = [each.point for line in chosen for each in line.measure]
    table = figures(other.plan, replicates(other))
    return _judged(run.plan, "live", table, order, seeds), len(chosen)


def _judged(plan: Plan, how: str, table: pd.DataFrame, found: Sequence[str], seeds: int) -> Curves:
    """How good points are in the order in which they were found, and random ones."""
    fronts = Fronts.of(table)
    ends = [point for point, why in outset.first(plan).items() if why == "endpoint"]
    order = [*ends, *(point for point in found if point not in ends)]
    guided = [fronts.worse_by(order[:count]) for count in range(len(ends), len(order) + 1)]
    others = np.array([point for point in table["point"] if point not in set(ends)])
    most = len(ends) + len(others)
    counts = {len(order), *np.linspace(len(ends), most, 15).round().astype(int).tolist()}
    chosen = []
    for seed in range(seeds):
        # More and more of one order, so that a curve never gets worse.
        drawn = np.random.default_rng(seed).permutation(others)
        chosen.append(
            [fronts.worse_by([*ends, *drawn[: count - len(ends)]]) for count in sorted(counts)]
        )
    return Curves(
        plan.run,
        how,
        len(plan.points),
        tuple(100 * share for share in guided),
        len(ends),
        tuple(sorted(counts)),
        100 * np.array(chosen),
    )


def row(found: Curves, generations: int) -> dict[str, Any]:
    """The figures of one run."""
    count = found.endpoints + len(found.guided) - 1
    chosen = found.chosen[:, found.counts.index(count)]
    return {
        "run": found.run,
        "how": found.how,
        "points": found.points,
        "measured": count,
        "share": round(count / found.points, 4),
        "generations": generations,
        "worse_percent": round(found.guided[-1], 4),
        "random_mean_percent": round(float(chosen.mean()), 4),
        "random_deviation_percent": round(float(chosen.std()), 4),
        "random_choices": len(chosen),
        "random_better_share": float((chosen < found.guided[-1]).mean()),
    }


def checks(rows: Sequence[dict[str, Any]], epsilon: float) -> Iterator[Check]:
    """What the issue asks of every run."""
    for each in rows:
        name = f"{each['run']}, {each['how']}"
        if each["points"] >= LARGE:
            yield Check(f"{name}: share of points measured", each["share"], SHARE, "lower")
        worse, mean = each["worse_percent"], each["random_mean_percent"]
        yield Check(f"{name}: front worse by, per cent", worse, 100 * epsilon, "lower")
        yield Check(f"{name}: the same, beside random choice of as many", worse, mean, "lower")


def draw(found: Sequence[Curves], epsilon: float, file: Path) -> None:
    """Draw both by the number of points, a panel for each run."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.6 * len(found), 3.6), layout="constrained")
        for axes, each in zip(figure.subplots(1, len(found), squeeze=False)[0], found, strict=True):
            _panel(axes, each, epsilon)
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
        figure.savefig(file, dpi=DPI)


def _panel(axes: Axes, found: Curves, epsilon: float) -> None:
    """One run."""
    blue, orange = palette()[:2]
    counts = np.array(found.counts)
    low, middle, high = np.percentile(found.chosen, [10, 50, 90], axis=0)
    axes.fill_between(counts, low, high, color=orange, alpha=0.25, lw=0, label="random, 80 %")
    axes.plot(counts, middle, color=orange, lw=1.4, label="random, median")
    begin, end = found.endpoints, found.endpoints + len(found.guided) - 1
    axes.plot(range(begin, end + 1), found.guided, color=blue, lw=1.8, label="guided")
    axes.plot(end, found.guided[-1], marker="o", color=blue, ms=5, ls="", clip_on=False, zorder=5)
    axes.annotate(
        f"ends by itself\nat {end} points",
        (end, found.guided[-1]),
        xytext=(10, 28),
        textcoords="offset points",
        fontsize=8,
        color=blue,
        bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1},
        arrowprops={"arrowstyle": "-", "color": blue, "lw": 0.7},
    )
    axes.axhline(100 * epsilon, color="0.4", lw=0.8, ls=(0, (4, 3)), label="epsilon")
    axes.set_yscale("symlog", linthresh=1, linscale=0.6)
    axes.set_ylim(0, 1.4 * max(found.chosen.max(), max(found.guided), 200 * epsilon))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlim(begin, found.points)
    axes.set_xlabel(f"points measured, of {found.points} ({begin} are endpoints)")
    axes.set_ylabel("front worse by, per cent")
    axes.set_title(f"{found.run}, {found.how}")
    axes.grid(True)
    axes.spines[["top", "right"]].set_visible(False)


def measure(
    runs: Sequence[Path],
    file: Path,
    *,
    lived: Sequence[tuple[Path, Path]] = (),
    quick: bool = False,
    predictor: Predictor = predictions,
    spec: GuideSpec = USUAL,
) -> tuple[list[dict[str, Any]], list[Check]]:
    """Replay runs, judge live ones, and draw what was found into a file; rows and checks."""
    seeds = 10 if quick else 200
    found = [curves(path, spec, predictor, seeds) for path in runs]
    found += [live(guided, whole, seeds) for guided, whole in lived]
    rows = [row(*each) for each in found]
    draw([each for each, _ in found], spec.epsilon, file)
    return rows, list(checks(rows, spec.epsilon))


if __name__ == "__main__":
    options_of = parser("guided", __doc__)
    options_of.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="results/RUN")
    options_of.add_argument(
        "--live",
        nargs=2,
        action="append",
        default=[],
        type=Path,
        metavar=("GUIDED", "ALL"),
        help="a guided run, and one of the same experiment that measured all points",
    )
    options_of.add_argument(
        "--figure", type=Path, default=Path("guided.png"), help="PNG to draw (default: guided.png)"
    )
    options_of.add_argument(
        "--epsilon",
        type=float,
        default=USUAL.epsilon,
        metavar="SHARE",
        help="by what share fronts may be worse, as in a spec (default: %(default)s)",
    )
    options = options_of.parse_args()
    if not options.runs and not options.live:
        options_of.error("name a run, or --live and two runs")
    measured = measure(
        options.runs,
        options.figure,
        lived=options.live,
        quick=options.quick,
        spec=GuideSpec(epsilon=options.epsilon),
    )
    show("guided", options, *measured)

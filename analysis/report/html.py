"""Write ``report.html`` of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.answers.summary import sentence, short_titles
from analysis.report import backends, doubts, opening
from analysis.report.embedded import embedded, names
from analysis.report.page import page
from analysis.report.reproducing import reproduction
from analysis.report.scenarios import scenarios
from analysis.run import Run
from paretopipe_worker.plan.labels import hosts_of

NAME = "report.html"

RATE_MBIT, DELAY_MS = 20.0, 10.0
"""Where the sliders stand at first, unless a link of the run has a rate or a delay."""


def write(
    run: Run,
    measured: pd.DataFrame,
    tables: Mapping[str, pd.DataFrame],
    document: Mapping[str, Any],
) -> Path:
    """Write a run's report into its directory.

    Parameters
    ----------
    run
        The run.
    measured
        Its replicates, see :func:`analysis.measures.replicates.replicates`.
    tables
        Those of its files by name: ``points.csv``, ``stages.csv``, ``attribution.csv``,
        ``front.csv``, ``predictions.csv`` and, if backends are compared, ``backends.csv``.
    document
        As :func:`analysis.pareto.analyse` returns it.

    Returns
    -------
    The file.
    """
    points = tables["points.csv"]
    predictions = tables["predictions.csv"]
    data = embedded(points, tables["stages.csv"], tables["attribution.csv"], predictions)
    data |= {"scenarios": scenarios(run, measured, points, predictions), "whatif": _start(points)}
    file = run.path / NAME
    file.write_text(page(_content(run, tables, document), data), encoding="utf-8")
    return file


def _content(
    run: Run, tables: Mapping[str, pd.DataFrame], document: Mapping[str, Any]
) -> dict[str, Any]:
    """What the template shows."""
    points = tables["points.csv"]
    compared = tables.get("backends.csv")
    return {
        "run": run.plan.run,
        "models": ", ".join(points["model"].unique()),
        "sentence": sentence(document["verdicts"]),
        "facts": opening.facts(run, points),
        "warnings": list(opening.warnings(document, points)),
        "cards": opening.cards(document),
        "further": opening.further(document),
        "weighed": opening.weighed(document["objectives"]),
        "front": _front(tables["front.csv"]),
        "backends": [] if compared is None else backends.sentences(compared),
        "certificates": doubts.certificates(points),
        "hosts": doubts.hosts(tables["stages.csv"]),
        "disturbed": doubts.disturbed(points),
        "failures": doubts.failures(points),
        "again": reproduction(run),
    }


def _front(best: pd.DataFrame) -> list[dict[str, str]]:
    """The fronts as a table for where no script runs."""
    records: list[dict[str, Any]] = [dict(row) for _, row in best.iterrows()]
    rows = zip(short_titles(records), names(best), records, strict=True)
    return [
        {
            "title": title,
            "split": full,
            "latency": _figure(row["latency_median_ms"], "{:.2f}"),
            "throughput": _figure(row["throughput_images_s"], "{:.2f}"),
            "probability": _figure(row["front_probability"], "{:.0%}"),
        }
        for title, (full, _), row in rows
    ]


def _figure(value: Any, form: str) -> str:
    """A figure, or a dash where there is none."""
    return "-" if pd.isna(value) else form.format(value)


def _start(points: pd.DataFrame) -> dict[str, float]:
    """Where the sliders stand at first: at the run's first link that has a rate, or a delay."""
    rates, delays = (
        [float(each) for each in points[name].dropna().unique() if each]
        for name in ("rate_mbit", "delay_ms")
    )
    hops = [len(hosts_of(placement)) - 1 for placement in points["placement"].unique()]
    return {
        "rate": rates[0] if rates else RATE_MBIT,
        "delay": delays[0] / max(hops) if delays else DELAY_MS,
    }

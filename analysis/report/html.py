"""Write ``report.html`` of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.answers.summary import sentence, short_titles
from analysis.prediction.parts import Parts
from analysis.report import backends, doubts, guided, opening
from analysis.report.embedded import embedded, names
from analysis.report.loads import loads
from analysis.report.page import page
from analysis.report.reproducing import reproduction
from analysis.report.scenarios import scenarios
from analysis.report.surfaces import surfaces
from analysis.report.traces import traces
from analysis.run import Run
from paretopipe_worker.plan.arrivals import KEEPS_UP, KNEE_LATENCY
from paretopipe_worker.plan.labels import hosts_of

NAME = "report.html"

RATE_MBIT, DELAY_MS = 20.0, 10.0
"""Where the sliders stand at first, unless a link of the run has a rate or a delay."""

OWN = ("load", "segments", "attainment")
"""Sections that only some runs have, by their part of the data."""


def write(
    parts: Parts,
    tables: Mapping[str, pd.DataFrame],
    document: Mapping[str, Any],
) -> Path:
    """Write a run's report into its directory.

    Parameters
    ----------
    parts
        The parts of the run's pipelines.
    tables
        Those of its files by name: ``points.csv``, ``stages.csv``, ``attribution.csv``,
        ``front.csv``, ``predictions.csv``, and those of ``backends.csv``, ``load.csv``,
        ``segments.csv`` and ``attainment.csv`` that the run has.
    document
        As :func:`analysis.pareto.analyse` returns it.

    Returns
    -------
    The file.
    """
    run, points = parts.run, tables["points.csv"]
    predictions = tables["predictions.csv"]
    data = embedded(points, tables["stages.csv"], tables["attribution.csv"], predictions)
    data |= {"scenarios": scenarios(parts, points, predictions), "whatif": _start(points)}
    data |= {
        "load": loads(points, tables.get("load.csv")),
        "segments": traces(points, tables.get("segments.csv")),
        "attainment": surfaces(points, tables.get("attainment.csv"), document["objectives"]),
    }
    content = _content(run, tables, document) | {"has": {name: bool(data[name]) for name in OWN}}
    file = run.path / NAME
    file.write_text(page(content, data), encoding="utf-8")
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
        "guided": _guided(document),
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
        "knee": {"latency": f"{KNEE_LATENCY:g}", "behind": f"{100 * (1 - KEEPS_UP):.0f} %"},
        "again": reproduction(run),
    }


def _guided(document: Mapping[str, Any]) -> str | None:
    """How a guided sweep ended."""
    found = document["guided"]
    if found is None:
        return None
    said = guided.told(found, document["points"]["ok"])
    return f"{said[:1].upper()}{said[1:]}."


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


def _start(points: pd.DataFrame) -> dict[str, Any]:
    """The run's links that have a rate, by what was asked of a hop, and where the sliders stand.

    That is at first at the first rate and the first delay that any link has.
    """
    hops = points["placement"].map(hosts_of).str.len() - 1
    asked = points[["rate_mbit", "delay_ms"]].assign(hops=hops)
    links = asked.groupby(points["link"], sort=False).max()
    delays = (links["delay_ms"] / links["hops"]).fillna(0.0)
    known = list(zip(links.index, links["rate_mbit"], delays, strict=True))
    return {
        "rate": next((rate for _, rate, _ in known if rate > 0), RATE_MBIT),
        "delay": next((delay for _, _, delay in known if delay > 0), DELAY_MS),
        "links": [link for link in known if link[1] > 0],
    }

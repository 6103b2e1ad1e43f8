"""All figures of a run, as pieces of work that several processes can share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from analysis.figures import breakdown
from analysis.figures.drawing import Page
from analysis.figures.front_figure import front
from analysis.figures.load_figure import load_figure
from analysis.figures.style import remove_further, save, save_page
from paretopipe_worker.plan.plan import slug


def pages(
    points: pd.DataFrame,
    stages: pd.DataFrame,
    directory: Path,
    curve: pd.DataFrame | None = None,
    attribution: pd.DataFrame | None = None,
    attained: pd.DataFrame | None = None,
) -> list[Page]:
    """What draws every figure of a run as PNG and SVG.

    Fronts and load are one piece of work for each model, since the names on one page decide how
    large the panels of all are. Each page of a breakdown is a piece of its own.

    Parameters
    ----------
    points
        The table ``points.csv``, see :func:`analysis.tables.points.points`.
    stages
        The table ``stages.csv``, see :func:`analysis.tables.stages.stages`.
    directory
        Where ``front-<model>``, ``breakdown-<model>`` and ``load-<model>`` go; a figure that takes
        several pages goes on in ``front-<model>-2``.
    curve
        The table ``load.csv``, see :func:`analysis.tables.load_curve.load_curve`.
    attribution
        The table ``attribution.csv``, see :func:`analysis.measures.attribution.attribution`.
    attained
        The table ``attainment.csv``, see :func:`analysis.tables.attainment.attainment`, where the
        fronts weigh latency and throughput.

    Returns
    -------
    Functions that each return the files they wrote. A model of which no point was measured has no
    figures, and a model to which no load was offered has no figure of load.
    """
    directory.mkdir(parents=True, exist_ok=True)
    whole: list[Page] = []
    single: list[Page] = []
    for model, table in points.groupby("model", sort=False):
        if not (table["status"] == "ok").any():
            continue
        name = slug(str(model))
        whole.append(partial(_front, table, stages, attained, directory, f"front-{name}"))
        offered = None if curve is None else curve[curve["model"] == model]
        if offered is not None and len(offered):
            whole.append(partial(_load, table, stages, offered, directory, f"load-{name}"))
        laid = breakdown.pages_of(table, stages, attribution)
        single += _saved(laid, directory, f"breakdown-{name}")
    # Whoever takes the last piece is waited for, so these are the small ones.
    return [*whole, *single]


def _front(
    points: pd.DataFrame,
    stages: pd.DataFrame,
    attained: pd.DataFrame | None,
    directory: Path,
    name: str,
) -> list[Path]:
    """Draw one model's fronts."""
    return save(front(points, stages, attained), directory, name)


def _load(
    points: pd.DataFrame, stages: pd.DataFrame, curve: pd.DataFrame, directory: Path, name: str
) -> list[Path]:
    """Draw one model's latency against offered load."""
    return save(load_figure(points, stages, curve), directory, name)


def _saved(laid: list[Callable[[], Figure]], directory: Path, name: str) -> Iterator[Page]:
    """Each page of a figure as a piece of work."""
    remove_further(directory, name, len(laid))
    for number, page in enumerate(laid, start=1):
        yield partial(_page, page, directory, name, number)


def _page(laid: Callable[[], Figure], directory: Path, name: str, number: int) -> list[Path]:
    """Draw one page of a figure."""
    return save_page(laid(), directory, name, number)

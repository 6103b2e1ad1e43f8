"""What the choice of backend costs, in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from analysis.column import OBJECTIVES
from analysis.figures.backend_figure import doubts
from analysis.measures.attribution import ALWAYS
from analysis.tables.backend_costs import APART
from analysis.tables.front import CIRCUMSTANCES, GROUP
from paretopipe_worker.plan.labels import circumstances, readable

LATENCY, THROUGHPUT = OBJECTIVES


def text(table: pd.DataFrame) -> str:
    """The comparison as text: a table and a sentence for each model, link and backend."""
    parts = ["\n".join([title, _shown(rows), _said(rows)]) for title, rows in _groups(table)]
    return "\n\n".join(parts or ["no cut was measured with two backends: nothing is compared"])


def sentences(table: pd.DataFrame) -> list[dict[str, str]]:
    """What each backend costs in each group: ``title`` and ``text``."""
    return [
        {"title": title, "text": _said(rows).replace("\n", "; ")} for title, rows in _groups(table)
    ]


def _groups(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The rows of each model, link, backend and so on, with a title."""
    group = ["backend", "reference", *(name for name in GROUP if name != "backend")]
    for names, rows in table.groupby(group, sort=False):
        known: dict[str, Any] = dict(zip(group, names, strict=True))
        yield (
            (
                f"{known['model']} over link {known['link']}: {known['backend']} minus "
                f"{known['reference']}, {readable(known['placement'])}, batch "
                f"{known['batch']}, window {known['window']}, "
                + ", ".join([known["dtype"], *circumstances(*(known[n] for n in CIRCUMSTANCES))])
            ),
            rows,
        )


def _shown(rows: pd.DataFrame) -> str:
    """One line per cut: differences with half their interval, and the kind they come from."""
    wide = rows.pivot(index=["position", "split", "payload_bytes"], columns="quantity")
    latency = rows.loc[rows["quantity"] == LATENCY].set_index(wide.index.names)
    half = (wide["difference_high"] - wide["difference"])[[LATENCY, THROUGHPUT]]
    difference = wide["difference"]
    shown = pd.DataFrame(
        {
            "latency ms": _with_half(difference[LATENCY], half[LATENCY]),
            "ratio": wide["ratio"][LATENCY].map("{:.3f}".format),
            "images/s": _with_half(difference[THROUGHPUT], half[THROUGHPUT]),
            **{name.replace("_", " "): difference[name].map(_signed) for name in ALWAYS},
            "comes from": latency["comes_from"].fillna("-").replace("-", "nothing"),
        }
    )
    return shown.reset_index().drop(columns="position").to_string(index=False)


def _with_half(values: pd.Series, halves: pd.Series) -> list[str]:
    """Differences with half their interval, where there is one."""
    return [
        _signed(value) + ("" if pd.isna(half) else f" ± {half:.3f}")
        for value, half in zip(values, halves, strict=True)
    ]


def _signed(value: float) -> str:
    """A difference, or a dash where there is none."""
    return "-" if pd.isna(value) else f"{value:+.3f}"


def _said(rows: pd.DataFrame) -> str:
    """A sentence: how large the difference of the latency is, and which kind it comes from."""
    latency = rows[rows["quantity"] == LATENCY]
    median, apart = (
        rows.loc[rows["quantity"] == name, "difference"].median() for name in (LATENCY, APART)
    )
    counts = latency["comes_from"].value_counts()
    where = (
        f", which comes from {counts.index[0]} at {counts.iloc[0]} of {len(latency)} cuts"
        if len(counts)
        else ""
    )
    more = "more" if median > 0 else "less"
    backend, reference = latency[["backend", "reference"]].iloc[0]
    return (
        f"in the median over cuts {backend} takes {abs(median):.3f} ms {more} than "
        f"{reference}{where}; computing apart, the difference is {_signed(apart)} ms"
        + "".join(f"\n{doubt}" for doubt in doubts(latency))
    )

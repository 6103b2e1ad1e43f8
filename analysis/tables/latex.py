"""Tables of points as a paper prints them: LaTeX with booktabs, units in the head, intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd

from analysis.column import CHOICES, LEAST_REPLICATES, OBJECTIVES
from analysis.measures.reduction import CONFIDENCE
from analysis.tables.front import GROUP
from paretopipe_worker.plan.labels import cuts_of, everything_on, hosts_of

_DIGITS = 3
"""Digits of a value without an interval."""

_HEADS = {
    "latency_median_ms": ("Latency (ms)", 1.0, "latency_median_{}_ms"),
    "throughput_images_s": ("Throughput (images/s)", 1.0, "throughput_{}_images_s"),
    "energy_j_per_image": ("Energy (J/image)", 1.0, ""),
    "peak_rss_bytes": ("Memory (MB)", 1e-6, ""),
    "max_relative_error": ("Output error", 1.0, ""),
    "payload_bytes": ("Payload (kB)", 1e-3, ""),
}
"""Head of each column, by what its values are multiplied, and the columns of its interval."""

_ESCAPES = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        **{each: f"\\{each}" for each in "&%$#_{}"},
        **dict.fromkeys(map(chr, (*range(32), 127)), " "),
    }
)


def escaped(text: str) -> str:
    r"""Text as LaTeX shows it.

    >>> escaped("a_b & 50 %")
    'a\\_b \\& 50 \\%'
    """
    return text.translate(_ESCAPES)


def quantity(value: float, half: float = math.nan) -> str:
    r"""A value for a paper, rounded to the digits that its interval has.

    Half of the interval has one digit, or two where the first is a 1; without an interval the value
    has three.

    >>> quantity(41.953, 0.526), quantity(41.953, 1.26), quantity(41953.2, 526)
    ('$42.0 \\pm 0.5$', '$42.0 \\pm 1.3$', '$42000 \\pm 500$')
    >>> quantity(0.12345), quantity(41953.2), quantity(float("nan"))
    ('0.123', '42000', '--')
    """
    if math.isnan(value):
        return "--"
    if math.isnan(half) or half == 0:
        return _fixed(value, _places(value, _DIGITS))
    digits = 2 if f"{half:.1e}".startswith("1") else 1
    places = _places(half, digits)
    return f"${_fixed(value, places)} \\pm {_fixed(half, places)}$"


def _places(value: float, digits: int) -> int:
    """Decimal places with which a value has so many digits; some are negative."""
    if value == 0:
        return 0
    return digits - 1 - int(f"{abs(value):.{digits - 1}e}".partition("e")[2])


def _fixed(value: float, places: int) -> str:
    """A value with so many decimal places, and no exponent."""
    return f"{round(value, places):.{max(places, 0)}f}"


def latex(points: pd.DataFrame, objectives: Mapping[str, str] = OBJECTIVES) -> str:
    """Points as a ``tabular`` environment, which needs the package booktabs.

    Parameters
    ----------
    points
        Rows of ``points.csv`` that were measured, of one model, in the order to be printed.
    objectives
        What the fronts weigh: they have columns.

    Returns
    -------
    Comments that say what the numbers are, and the environment. What is the same for all rows is in
    the comments, and what is the same as in the row before is left empty. ``*`` marks a point on
    the front, where there are others, too.
    """
    shared = [name for name in GROUP if name != "model"]
    varied = [name for name in shared if points[name].nunique() > 1]
    table = {_head(name): _once(points, name, varied) for name in varied}
    several = not points["on_front"].all()
    pairs = zip(points["split"], points["placement"], points["on_front"], strict=True)
    table["Split"] = [
        escaped(everything_on(cuts_of(split), hosts_of(hosts)) or split)
        + ("$^*$" if several and on_front else "")
        for split, hosts, on_front in pairs
    ]
    figures = dict.fromkeys([*OBJECTIVES, *objectives, "payload_bytes"])
    for name in figures:
        head, factor, ends = _HEADS[name]
        table[head] = _quantities(points, name, factor, ends)
    if points["front_probability"].notna().any():
        known = points["front_probability"]
        table["$P$(front)"] = ["--" if pd.isna(each) else f"{each:.2f}" for each in known]
    words = len(varied) + 1
    body = pd.DataFrame(table).to_latex(
        index=False, escape=False, column_format="l" * words + "r" * (len(table) - words)
    )
    return "".join(f"% {line}\n" for line in _comments(points, shared, varied)) + body


def _comments(points: pd.DataFrame, shared: Sequence[str], varied: Sequence[str]) -> list[str]:
    """What a reader of the table must know, a line each."""
    alike = [name for name in shared if name not in varied]
    same = ", ".join(f"{name} {points[name].iloc[0]}" for name in ("model", *alike))
    few = int((points["replicates"] < LEAST_REPLICATES).sum())
    said = [
        "needs \\usepackage{booktabs}",
        " ".join(same.split()),
        f"value +- half of its {CONFIDENCE:.0%} t-interval over replicates, each column by itself",
    ]
    if few:
        said[-1] = (
            f"no interval is shown of {few} of {len(points)} points: fewer than "
            f"{LEAST_REPLICATES} replicates were measured"
        )
    return said


def _head(name: str) -> str:
    """The head of a column that tells conditions apart."""
    return escaped(name.capitalize())


def _once(points: pd.DataFrame, name: str, varied: Sequence[str]) -> list[str]:
    """Values of a condition, empty where it and those left of it are those of the row before."""
    left = points[list(varied[: varied.index(name) + 1])]
    same = (left == left.shift()).all(axis=1)
    values = [escaped(str(value)) for value in points[name]]
    return ["" if again else value for value, again in zip(values, same, strict=True)]


def _quantities(points: pd.DataFrame, name: str, factor: float, ends: str) -> list[str]:
    """The values of one column, with half of their interval where there is one."""
    values = points[name].to_numpy(dtype="float64", na_value=math.nan) * factor
    if name == CHOICES["bytes"]:
        return [f"{value:.1f}" for value in values]  # as planned: nothing of it is uncertain
    if not ends:
        return [quantity(value) for value in values]
    low, high = (
        points[ends.format(end)].to_numpy(dtype="float64", na_value=math.nan) * factor
        for end in ("low", "high")
    )
    return [quantity(value, half) for value, half in zip(values, (high - low) / 2, strict=True)]

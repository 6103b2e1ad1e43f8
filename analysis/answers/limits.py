"""Limits that a person puts on objectives, such as ``--latency-max 50ms``."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import pandas as pd

from analysis.column import CHOICES, OBJECTIVES

_BYTES = {"B": 1.0, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20}
UNITS: Mapping[str, Mapping[str, float]] = {
    "latency": {"ms": 1.0, "s": 1000.0, "us": 0.001},
    "throughput": {"/s": 1.0},
    "memory": _BYTES,
    "error": {"": 1.0, "%": 0.01},
    "energy": {"J": 1.0, "mJ": 0.001},
    "bytes": _BYTES,
}
"""What a limit may be given in, by objective, and how much that is in the column's own unit, which
is the first."""

_QUANTITY = re.compile(r"([0-9.eE+-]*[0-9.])\s*([a-zA-Z%/]*)")


@dataclass(frozen=True)
class Limit:
    """The most, or the least, that an objective may be, in its column's unit."""

    objective: str
    value: float

    @property
    def column(self) -> str:
        """The column that is limited."""
        return CHOICES[self.objective]

    @property
    def option(self) -> str:
        """The option by which it is given."""
        return f"--{self.objective}-{'min' if self.at_least else 'max'}"

    @property
    def at_least(self) -> bool:
        """Whether more is better, so that the value is the least."""
        return OBJECTIVES.get(self.column) == "max"

    @property
    def text(self) -> str:
        """The limit in words."""
        unit = next(iter(UNITS[self.objective]))
        bound = "least" if self.at_least else "most"
        return f"{self.objective} of at {bound} {self.value:g} {unit}".strip()

    def met(self, points: pd.DataFrame) -> pd.Series:
        """Which points keep it; one without a figure does not."""
        values = points[self.column].astype("float64")
        kept: pd.Series = values >= self.value if self.at_least else values <= self.value
        return kept

    def excess(self, value: float) -> float:
        """By which share of the limit a figure is beyond it."""
        beyond = self.value - value if self.at_least else value - self.value
        return beyond / self.value if self.value else math.inf


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add an option for a limit on each objective to a command line."""
    for objective in CHOICES:
        option = Limit(objective, 0).option
        parser.add_argument(
            option,
            dest=f"limit_{objective}",
            type=partial(_limit, objective),
            metavar="VALUE",
            help=f"choose among points with {objective} of {option[-3:]}imum VALUE, "
            f"in {' or '.join(unit or 'a share' for unit in UNITS[objective])}",
        )


def given(options: argparse.Namespace) -> list[Limit]:
    """The limits of a command line, in the order of the objectives."""
    asked = (getattr(options, f"limit_{objective}") for objective in CHOICES)
    return [limit for limit in asked if limit is not None]


def _limit(objective: str, text: str) -> Limit:
    """Read one limit; without a unit it is in the column's own."""
    units = UNITS[objective]
    found = _QUANTITY.fullmatch(text.strip())
    try:
        value = float(found[1]) if found else math.nan
    except ValueError:
        value = math.nan
    unit = found[2] if found else ""
    if not (math.isfinite(value) and value >= 0) or (unit and unit not in units):
        allowed = ", ".join(f"50{each}" for each in units)
        raise argparse.ArgumentTypeError(f"{text!r} is no {objective}; allowed are {allowed}")
    return Limit(objective, value * units.get(unit, 1.0))

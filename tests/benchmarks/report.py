"""What every benchmark prints."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import pandas as pd


@dataclass(frozen=True)
class Check:
    """A figure held against its target."""

    name: str
    value: float
    limit: float
    better: Literal["lower", "higher"]

    @property
    def met(self) -> bool:
        """Whether this run met the target."""
        return self.value <= self.limit if self.better == "lower" else self.value >= self.limit


Rows = Sequence[Mapping[str, Any]]


def parser(name: str, about: str) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    made = argparse.ArgumentParser(prog=f"python -m tests.benchmarks.{name}", description=about)
    made.add_argument("--json", action="store_true", help="print one JSON document")
    made.add_argument("--quick", action="store_true", help="measure little, to see that it runs")
    return made


def main(name: str, measure: Callable[[bool], tuple[Rows, Sequence[Check]]], about: str) -> None:
    """Run `measure`, which is told whether to be quick, and print what it found."""
    options = parser(name, about).parse_args()
    show(name, options, *measure(options.quick))


def show(name: str, options: argparse.Namespace, rows: Rows, checks: Sequence[Check]) -> None:
    """Print rows and checks, as one JSON document or as tables for people."""
    held = [{**asdict(check), "met": check.met} for check in checks]
    if options.json:
        host = {
            "machine": platform.machine(),
            "cpus": os.cpu_count(),
            "kernel": platform.release(),
            "load_average": os.getloadavg(),
        }
        document = {
            "benchmark": name,
            "quick": options.quick,
            "host": host,
            "rows": list(rows),
            "checks": held,
        }
        print(json.dumps(document, indent=1))
        return
    with pd.option_context("display.width", 200, "display.precision", 3):
        print(pd.DataFrame(rows).to_string(index=False))
        print()
        print(pd.DataFrame(held).to_string(index=False))

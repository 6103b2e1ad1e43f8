"""Refuse a plan that is larger than a person is likely to want."""

from __future__ import annotations

import math
from typing import Literal

from paretopipe_worker.plan.experiment import Experiment
from paretopipe_worker.plan.plan import PlanError


def hold(experiment: Experiment, what: Literal["points", "hours"], found: float) -> None:
    """Refuse a plan beyond the limit, where the spec has no strategy and no list of cuts.

    Raises
    ------
    PlanError
        When more is `found` than the spec's limit.
    """
    most = getattr(experiment.limit, what)
    if experiment.strategy or experiment.splits.cuts != "all" or found <= most:
        return
    raise PlanError(
        f"limit.{what}: all splits together make a plan of {_rounded(found)} {what}, and the limit "
        f"is {_rounded(most)}; allowed: strategy: all (measures them all the same), guided (those "
        "that may be best), {sample: N} (N of each model), a list in splits.cuts, or another limit"
    )


def _rounded(number: float) -> str:
    """A number for people, never less than it is."""
    return f"{math.ceil(number * 100) / 100:,.12g}"

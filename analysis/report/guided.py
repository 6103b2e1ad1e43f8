"""How a guided sweep stands or ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analysis.run import Run
from paretopipe_worker.plan import generations
from paretopipe_worker.plan.strategy import Guided


def standing(run: Run) -> dict[str, Any] | None:
    """What a guided sweep has decided, and how it ended.

    Returns
    -------
    None of a sweep that was not guided. Else ``epsilon`` and ``hours``, as the spec has them;
    ``generations``; ``asked``, the points that were to be measured; ``left_out``, those that were
    not worth it; ``undecided``, the others; ``hours_used``, null before the end; ``ended``, see
    :class:`paretopipe_worker.plan.generations.End`, null where the sweep was interrupted; and
    ``why`` it ended, in words.

    Raises
    ------
    paretopipe_worker.plan.generations.GenerationsError
        When its decisions cannot be read.
    """
    strategy = run.plan.experiment.strategy
    if not isinstance(strategy, Guided):
        return None
    history = generations.read(run.plan, run.path)
    asked, left_out, end = history.asked, history.skipped, history.end(strategy)
    return {
        "epsilon": strategy.guided.epsilon,
        "hours": strategy.guided.hours,
        "generations": history.number,
        "asked": len(asked),
        "left_out": len(left_out),
        "undecided": len(run.plan.points) - len(asked) - len(left_out),
        "hours_used": end.standing.hours_used if end else None,
        "ended": end.why if end else None,
        "why": end.told if end else None,
    }


def told(found: Mapping[str, Any], measured: int) -> str:
    """The same in a line; `measured` is how many points have figures."""
    points = found["asked"] + found["left_out"] + found["undecided"]
    used = "" if found["hours_used"] is None else f" in {found['hours_used']:.2f} h"
    said = (
        f"guided sweep (epsilon {100 * found['epsilon']:g} %): {measured} of {points} points "
        f"measured{used}, {found['left_out']} left out"
    )
    said += f", {found['undecided']} undecided" if found["undecided"] else ""
    if found["ended"]:
        return f"{said}; it ended because {found['why']}"
    after = f"after generation {found['generations']}" if found["generations"] else "at its start"
    return f"{said}; it was interrupted {after}, and goes on when the run is started again"

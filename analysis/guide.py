"""``python -m analysis.guide results/RUN``: decide what a guided sweep measures next.

The decision is written to ``generations.jsonl`` in the run's folder; ``python -m paretopipe_worker
todo`` then lists the points. Nothing is decided while points of the last generation are left to
measure, or after the sweep has ended. See docs/guided.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from analysis import turns
from analysis.disk import saying_why
from analysis.guiding.candidates import Predictor
from analysis.guiding.deciding import decide
from analysis.measures.replicates import replicates
from analysis.prediction.predicting import predictions
from analysis.run import Run, RunError, read
from paretopipe_worker.plan import generations, resume
from paretopipe_worker.plan.generations import Generation, History, Line
from paretopipe_worker.plan.labels import split_label
from paretopipe_worker.plan.plan import PlanError
from paretopipe_worker.plan.predict import duration
from paretopipe_worker.plan.strategy import Guided
from paretopipe_worker.records.files import RecordError

_NAMED = 6
"""Splits that are named of those that are left out over one link."""


@saying_why
def main(arguments: list[str] | None = None) -> int:
    """Decide, write the decision, and print it; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.guide",
        description="Decide which points a guided sweep measures next, or that it has ended.",
    )
    parser.add_argument("run", type=Path, help="the run's directory, results/RUN")
    options = parser.parse_args(arguments)
    try:
        print(guide(options.run))
    except (RunError, PlanError, RecordError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def guide(path: Path, predictor: Predictor = predictions) -> str:
    """Decide what comes next, unless that was decided already; what was decided, in words.

    Raises
    ------
    RunError, PlanError, RecordError
        When there is no such run, its strategy is another one, or it is damaged.
    """
    run = read(path)
    for warning in run.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    strategy = run.plan.experiment.strategy
    if not isinstance(strategy, Guided):
        raise RunError(
            f"{path}: its strategy is {strategy or 'all'!r}; a guide decides only where the spec "
            "has strategy: guided"
        )
    progress = resume.todo(run.plan, path)["guided"]
    if progress["state"] != "decide":
        return str(progress["progress"])
    history = generations.read(run.plan, path)
    line = decide(run, replicates(run), history, strategy.guided, predictor, turns.hours(path))
    generations.append(path, line)
    return "\n".join(_told(run, History((*history.lines, line)), line))


def _told(run: Run, history: History, line: Line) -> Iterator[str]:
    """What was decided, in words: how many points there are of each kind, and what comes next."""
    skipped, asked = history.skipped, history.asked
    count = len(run.plan.points)
    used, most = line.standing.hours_used, line.standing.hours
    hours = f"{used:.2f} h" + (f" of {most:g} h" if most else "")
    if isinstance(line, Generation):
        now = len(line.measure)
        open_ = count - len(asked) - len(skipped)
        yield (
            f"generation {line.number}: {len(asked) - now} of {count} points were measured in "
            f"{hours}, {len(skipped)} are left out, {now} are measured now (about "
            f"{duration(line.predicted_s)} predicted), {open_} are undecided"
        )
        return
    yield (
        f"ended after generation {history.number}: {line.told}; {len(asked)} of {count} points "
        f"were measured in {hours}"
    )
    by_link: dict[str, list[str]] = {}
    for point in map(run.plan.point, skipped):
        by_link.setdefault(f"{point.model} over {point.link}", []).append(split_label(point.split))
    for where, splits in by_link.items():
        named = ", ".join(splits[:_NAMED])
        more = f" and {len(splits) - _NAMED} more" if splits[_NAMED:] else ""
        yield f"left out, {where}: {named}{more} (points.csv says why)"


if __name__ == "__main__":
    sys.exit(main())

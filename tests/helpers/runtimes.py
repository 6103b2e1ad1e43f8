"""Runs whose stages several runtimes execute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from paretopipe_worker.model import loading
from paretopipe_worker.plan import plan as plans
from paretopipe_worker.session.join import load
from tests.helpers import stage_files
from tests.helpers.sessions import Lab


def executed_by(made: Lab, *runtimes: Sequence[str]) -> Lab:
    """The same run with every point once for each choice of runtimes, which are given by rank.

    Stages are exported for it. The points of the first choice keep their ids.
    """
    plan = made.plan
    again = {
        point.id: [
            replace(point, id=f"{point.id}{f'-{number}' * bool(number)}", runtimes=tuple(chosen))
            for number, chosen in enumerate(runtimes)
        ]
        for point in plan.points
    }
    plan = replace(
        plan,
        points=tuple(point for each in again.values() for point in each),
        sessions=tuple(
            replace(each, points=tuple(point.id for id in each.points for point in again[id]))
            for each in plan.sessions
        ),
    )
    (made.results / "plan.json").write_text(plans.dump(plan))
    found = replace(made, plan=plan)
    _export(found)
    return found


def _export(made: Lab) -> None:
    """Write the files of stages that are not there yet."""
    plan, folder = made.plan, made.cache / "programs"
    models = {session.model: load(plan, session, folder) for session in plan.sessions}
    for point in plan.points:
        table = plan.table(point.model, point.batch, point.dtype)
        for rank, runtime in enumerate(point.runtimes):
            before, after = point.ends(rank)
            file = folder / plans.stage_name(table, before, after)
            if runtime == "onnxruntime" and before != after and not file.exists():
                model = models[point.model][point.batch, point.dtype]
                loading.save_checked(stage_files.exported(model, before, after), file)

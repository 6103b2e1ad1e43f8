"""Runs whose stages several runtimes execute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from paretopipe_worker.model import loading
from paretopipe_worker.plan import plan as plans
from paretopipe_worker.session.join import load
from tests.helpers import stage_files
from tests.helpers.sessions import Lab


def executed_by(made: Lab, runtimes: Sequence[str]) -> Lab:
    """The same run with each rank's stages executed by a runtime, for which they are exported."""
    plan = made.plan
    points = tuple(replace(each, runtimes=tuple(runtimes)) for each in plan.points)
    plan = replace(plan, points=points)
    (made.results / "plan.json").write_text(plans.dump(plan))
    folder = made.cache / "programs"
    models = {session.model: load(plan, session, folder) for session in plan.sessions}
    for point in points:
        table = plan.table(point.model, point.batch, point.dtype)
        for rank, runtime in enumerate(runtimes):
            before, after = point.ends(rank)
            file = folder / plans.stage_name(table, before, after)
            if runtime == "onnxruntime" and before != after and not file.exists():
                model = models[point.model][point.batch, point.dtype]
                loading.save_checked(stage_files.exported(model, before, after), file)
    return replace(made, plan=plan)

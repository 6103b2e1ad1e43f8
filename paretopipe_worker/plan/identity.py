"""What makes two plans, or two points, the same: what they measure, and not how it is told."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from typing import Any

from paretopipe_worker.cuts import PLAIN, CutTable
from paretopipe_worker.plan.experiment import Experiment
from paretopipe_worker.plan.plan import Plan


def digest(plan: Plan) -> str:
    """Digest (SHA-256) of what a plan measures: results may be mixed only where it is the same.

    The description, predicted values and memory are not part of it: none changes a result.
    """
    text = json.dumps(_measured(plan), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def differences(old: Plan, new: Plan) -> list[str]:
    """Names of the parts of two plans that differ in what is measured."""
    before, after = _measured(old), _measured(new)
    found = [name for name in before if before[name] != after[name]]
    # Points and sessions follow from the rest. Only where this version of the code plans otherwise
    # do they differ alone.
    return [name for name in found if name not in ("points", "sessions")] or found


def _measured(plan: Plan) -> dict[str, Any]:
    """What a plan measures, part by part."""
    return {
        "run": plan.run,
        "experiment": _asked(plan.experiment),
        "inventory": [special(_without(host, "speed_hint", "memory_mb")) for host in plan.hosts],
        "weights": {table.model: table.weights_sha256 for table in plan.tables},
        "models": [_captured(table, plan.schema) for table in plan.tables],
        "points": [special(_without(point, *_PREDICTED, "memory_bytes")) for point in plan.points],
        "sessions": [special(_without(session, *_PREDICTED)) for session in plan.sessions],
    }


def _captured(table: CutTable, schema: int) -> dict[str, Any]:
    """What is to be measured of a model."""
    document = _without(table, *_TOLD)
    for name in ("images_sha256", "exporter"):
        if not document[name]:
            del document[name]
    if schema < 4:  # a model took one tensor then, whose digest is to stay
        (only,) = document.pop("inputs")
        document["input"] = {"shape": only["shape"], "dtype": only["dtype"]}
    return document


def _asked(experiment: Experiment) -> dict[str, Any]:
    """An experiment without descriptions, and without paths: checksums identify what lies there.

    What specs may say since an earlier version is left out where it is not said, so that a plan of
    before keeps its digest.
    """
    models = tuple(
        replace(
            model,
            weights=None,
            path=None,
            inputs=() if model.images else model.inputs,
            requirements=(),
        )
        for model in experiment.models
    )
    document = _without(replace(experiment, models=models), "description", "limit")
    if document["sources"] == (1,):
        del document["sources"]
    if document["strategy"] in (None, "all"):
        del document["strategy"]
    if document["splits"]["max_tensors"] == 1:
        del document["splits"]["max_tensors"]
    for model in document["models"]:
        for name in _LATER:
            if not model[name]:
                del model[name]
    return document


_LATER = ("inputs", "factory", "arguments", "path", "requirements")
_TOLD = (
    *("forward_ns", "weights_sha256", "program_error"),
    *("footprint", "references_sha256", "operators"),
)
"""What a table tells beside what is measured."""
_PREDICTED = ("predicted_latency_s", "predicted_s", "deadline_s")


def special(point: dict[str, Any]) -> dict[str, Any]:
    """Some fields of a point, session or host, without circumstances that are as always.

    So a point keeps its id, and a plan its digest, from before there was a choice.
    """
    return {name: value for name, value in point.items() if value != _BEFORE.get(name, _NONE)}


_BEFORE = {
    **{"runtimes": (), "wire": PLAIN, "busy": False, "sources": 1},
    **{"group": "", "lane": 0},
    **{"device": "cpu", "cuda_graphs": False},
}
_NONE = object()


def _without(part: Any, *names: str) -> dict[str, Any]:
    """The fields of a dataclass, except some."""
    return {name: value for name, value in asdict(part).items() if name not in names}

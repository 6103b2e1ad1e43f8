"""What makes two plans, or two points, the same: what they measure, and not how it is told."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, fields, replace
from typing import Any

from paretopipe_worker.cuts import PLAIN, CutTable
from paretopipe_worker.plan.experiment import INVENTORY, Experiment
from paretopipe_worker.plan.fleet import Host
from paretopipe_worker.plan.plan import Plan


def digest(plan: Plan) -> str:
    """Digest (SHA-256) of what a plan measures: results may be mixed only where it is the same.

    The description, predicted values and memory are not part of it: none changes a result.
    """
    # Of thousands of points `asdict` would make copies, for seconds.
    text = json.dumps(_measured(plan), sort_keys=True, separators=(",", ":"), default=_fields)
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
        "inventory": [_host(host, plan.experiment) for host in plan.hosts],
        "weights": {table.model: table.weights_sha256 for table in plan.tables},
        "models": [_captured(table, plan.schema) for table in plan.tables],
        "points": [special(_fields(point, *_PREDICTED, "memory_bytes")) for point in plan.points],
        "sessions": [special(_fields(session, *_PREDICTED)) for session in plan.sessions],
    }


def _host(host: Host, experiment: Experiment) -> dict[str, Any]:
    """What of a host decides what is measured."""
    document = special(_without(host, *_HOST))
    if host.busy is None or not any(experiment.busy):
        del document["busy"]
    return document


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
    # A profile is measured beside the points and changes none of them.
    document = _without(replace(experiment, models=models), "description", "limit", "profile")
    if document["sources"] == (1,):
        del document["sources"]
    if document["strategy"] in (None, "all"):
        del document["strategy"]
    if document["splits"]["max_tensors"] == 1:
        del document["splits"]["max_tensors"]
    for name, before in _ONE_ENTRY.items():
        if document[name] == before:
            del document[name]
    for model in document["models"]:
        for name in _LATER:
            if not model[name]:
                del model[name]
    return document


_ONE_ENTRY = {"busy": (False,), "runtimes": (INVENTORY,), "wire": (PLAIN,)}
"""Lists of a spec, with their defaults, that there were not always."""
_LATER = ("inputs", "factory", "arguments", "path", "requirements")
_TOLD = (
    *("forward_ns", "weights_sha256", "program_error"),
    *("footprint", "references_sha256", "operators", "tensors_sha256"),
)
"""What a table tells beside what is measured."""
_HOST = ("speed_hint", "memory_mb", "runtime")
"""What a host tells beside what is measured; which runtime a stage has, points say."""
_PREDICTED = ("predicted_latency_s", "predicted_s", "deadline_s")


def special(point: dict[str, Any]) -> dict[str, Any]:
    """Some fields of a point, host or session, without circumstances that are as they always were.

    So a point keeps its id, and a plan its digest, from before there was a choice.
    """
    return {name: value for name, value in point.items() if value != _BEFORE.get(name, _NONE)}


_BEFORE = {
    **{"runtimes": (), "wire": PLAIN, "busy": False, "sources": 1},
    **{"device": "cpu", "cuda_graphs": False},
    **{"group": "", "lane": 0},
}
_NONE = object()


def _without(part: Any, *names: str) -> dict[str, Any]:
    """The fields of a dataclass, except some, as plain data."""
    return {name: value for name, value in asdict(part).items() if name not in names}


def _fields(part: Any, *names: str) -> dict[str, Any]:
    """The fields of a dataclass, except some, as they are."""
    return {
        field.name: getattr(part, field.name) for field in fields(part) if field.name not in names
    }

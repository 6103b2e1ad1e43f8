"""Reading an experiment spec: what a person wrote in ``experiments/NAME.yml``, checked once, here.

Every refusal names the file, the key path and what is allowed, before any host is touched.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from paretopipe_worker import bounded
from paretopipe_worker.cuts import EXPORTED
from paretopipe_worker.link import profiles
from paretopipe_worker.link.conditions import TcpSettings
from paretopipe_worker.plan import faults, yaml_text
from paretopipe_worker.plan.experiment import (
    Experiment,
    ImageSpec,
    LoadSpec,
    ModelInput,
    ModelSpec,
    PhaseSpec,
)
from paretopipe_worker.plan.session_specs import CertifySpec, ProfileSpec
from paretopipe_worker.plan.strategy import GuideSpec, LimitSpec, Sample, SplitSpec
from paretopipe_worker.usertext import is_path, located

_ADAPTER = TypeAdapter(Experiment)
_NESTED: dict[str, type] = {
    "models": ModelSpec,
    "inputs": ImageSpec,
    "tcp": TcpSettings,
    "splits": SplitSpec,
    "strategy": Sample,
    "guided": GuideSpec,
    "limit": LimitSpec,
    "phases": PhaseSpec,
    "load": LoadSpec,
    "certify": CertifySpec,
    "profile": ProfileSpec,
}
"""Dataclass of each key whose value is a mapping or a list of mappings; links have a parser of
their own."""


class SpecError(ValueError):
    """An experiment spec was refused: one line for each fault, with file, key path, allowed."""


def read(path: Path) -> Experiment:
    """Read and check an experiment spec.

    Parameters
    ----------
    path
        A YAML file.

    Raises
    ------
    SpecError
        When the file cannot be read, is not YAML, or any value in it is not allowed.
    """
    try:
        document = yaml_text.load(bounded.text(path, yaml_text.MOST_BYTES))
    except OSError as error:
        where = "" if path.is_absolute() else f" in {Path.cwd()}"
        raise SpecError(f"{path}: cannot be read{where}: {error.strerror}") from error
    except bounded.UnreadableFile as error:
        raise SpecError(f"{path}: {error}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise SpecError(f"{path}: is not valid YAML: {error}") from error
    return parse(document, str(path), path.parent)


def parse(document: object, source: str = "spec", folder: Path = Path()) -> Experiment:
    """Check an experiment given as plain data.

    Parameters
    ----------
    source
        How errors name the document.
    folder
        Folder in which relative paths of traces and weights begin, see
        :func:`paretopipe_worker.usertext.located`.

    Raises
    ------
    SpecError
        One line for each value that is not allowed.
    """
    if not isinstance(document, dict):
        raise SpecError(f"{source}: must be a mapping with at least the key 'models'")
    full = _written_out(document, folder)
    found = _resolve_links(source, full, folder)
    try:
        # As JSON: strict mode then accepts lists for tuples and mappings for dataclasses.
        experiment = _ADAPTER.validate_json(json.dumps(full, default=str))
    except ValidationError as error:
        found += [_line(source, fault) for fault in faults.root_causes(error)]
    if found:
        raise SpecError("\n".join(dict.fromkeys(found)))
    return experiment


def _written_out(document: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Expand short forms: ``8`` to ``[8]``, ``resnet18`` to ``{name: resnet18}``."""
    full = dict(document)
    for key in ("backends", "batch", "window", "dtype", "runtimes", "wire", "busy", "sources"):
        if key in full and not isinstance(full[key], list):
            full[key] = [full[key]]
    if isinstance(full.get("models"), list):
        full["models"] = [_model_written_out(part, folder) for part in full["models"]]
    return full


def _model_written_out(part: object, folder: Path) -> object:
    """Expand a model that is only a name or a file, and make its paths absolute."""
    if isinstance(part, str):
        if not part.endswith(EXPORTED):
            return {"name": part}
        return {"name": Path(part).stem, "path": str(located(part, folder))}
    if not isinstance(part, dict):
        return part
    full = dict(part)
    if isinstance(weights := part.get("weights"), str) and is_path(weights):
        full["weights"] = str(located(weights, folder))
    if isinstance(path := part.get("path"), str):
        full["path"] = str(located(path, folder))
    if isinstance(inputs := part.get("inputs"), dict) and isinstance(inputs.get("images"), str):
        full["inputs"] = inputs | {"images": str(located(inputs["images"], folder))}
    return full


def _resolve_links(source: str, document: dict[str, Any], folder: Path) -> list[str]:
    """Replace the links by resolved profiles; remove them all where one is refused.

    Returns
    -------
    A line for each link that is refused.
    """
    found = []
    if isinstance(document.get("links"), list):
        resolved = []
        for number, written in enumerate(document.pop("links")):
            try:
                resolved.append(asdict(profiles.parse(written, folder)))
            except profiles.ProfileError as error:
                path = faults.key_path(("links", number, *error.path))
                found.append(f"{source}: {path}: {error}")
        if not found:
            document["links"] = resolved
    return found


def _line(source: str, fault: ErrorDetails) -> str:
    """One fault as file, key path, what is wrong, what is allowed."""
    location = fault["loc"]
    key, _, reason = faults.own_words(fault).partition(": ")
    if key in _allowed_keys(location):  # a dataclass's own check, which names the field itself
        return f"{source}: {faults.key_path((*location, key))}: {reason}"
    told = faults.said(fault, _allowed_keys(location[:-1]))
    return f"{source}: {faults.key_path(location) or 'spec'}: {told}"


def _allowed_keys(location: Iterable[object]) -> list[str]:
    """Keys allowed in the mapping at `location`, or in the nearest mapping around it."""
    owner: type = Experiment
    for part in location:
        if isinstance(part, str):
            owner = _NESTED.get(part, owner)
        elif owner is ImageSpec:
            owner = ModelInput  # one of a list
    return [field.name for field in fields(owner)]

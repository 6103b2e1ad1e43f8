"""The files of PipeEdge's scheduler: models, kinds of devices, and devices.

PipeEdge (https://github.com/usc-isi/PipeEdge, README_Scheduler.md) describes a model by its layers,
a kind of device by what each layer takes there, and says which hosts are of which kind. Here a
layer is what lies between two neighbouring places of a model. The files hold one rate for each
kind of device. They hold neither delays nor the way back nor what software takes for a message.

The scheduler's units are kept: a MB is 2**20 bytes, and a Mbps 2**20 bits per second.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from analysis.prediction.costs import Hop
from analysis.prediction.exact import Fleet
from paretopipe_worker import bounded
from paretopipe_worker.cuts import DTYPE_BYTES
from paretopipe_worker.plan import faults, yaml_text
from paretopipe_worker.usertext import shown

MIB = 2**20
MODELS, DEVICE_TYPES, DEVICES = "models.yml", "device_types.yml", "devices.yml"

_MOST_BYTES = 32_000_000
_MOST_LAYERS = 10_000
_MOST_ORDERS = 1024
"""Most combinations of hosts whose orders are searched."""

_BUFFERS = 2
"""Buffers for messages that come in, and for those that go out, as the scheduler counts them."""

_Amount = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]
_Count = Annotated[int, Field(ge=0, le=10**12)]
_PREFIX = "torch."


class PipeEdgeError(ValueError):
    """A file cannot be used: the text names file, key, and what is allowed."""


class Model(BaseModel):
    """A model: memory and outputs of each layer, in numbers per image."""

    model_config = ConfigDict(extra="forbid")

    layers: Annotated[int, Field(ge=0, le=_MOST_LAYERS)]
    mem_MB: list[_Amount]
    parameters_in: _Count
    parameters_out: list[_Count]


class Profile(BaseModel):
    """What each layer of a model takes for a batch, in seconds."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    batch_size: Annotated[int, Field(ge=1, le=1_000_000)]
    dtype: str
    time_s: list[_Amount]


class DeviceType(BaseModel):
    """A kind of device."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    bw_Mbps: _Amount
    mem_MB: _Amount
    model_profiles: dict[str, list[Profile]] | None = None


@dataclass(frozen=True)
class Files:
    """What the three files hold."""

    models: dict[str, Model]
    device_types: dict[str, DeviceType]
    devices: dict[str, list[str]]

    def write(self, folder: Path) -> list[Path]:
        """Write the files into a folder, which is made; return them."""
        folder.mkdir(parents=True, exist_ok=True)
        models = {name: model.model_dump() for name, model in self.models.items()}
        kinds = {name: kind.model_dump() for name, kind in self.device_types.items()}
        files = []
        for name, content in ((MODELS, models), (DEVICE_TYPES, kinds), (DEVICES, self.devices)):
            text = yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=100)
            (folder / name).write_text(text, encoding="utf-8")
            files.append(folder / name)
        return files


def read(folder: Path) -> Files:
    """Read the three files of a folder.

    Raises
    ------
    PipeEdgeError
        When a file is not there, is no YAML, or holds what is not allowed.
    """
    files = Files(
        _checked(folder / MODELS, _MODELS),
        _checked(folder / DEVICE_TYPES, _DEVICE_TYPES),
        _checked(folder / DEVICES, _DEVICES),
    )
    for fault in _disagreements(files):
        raise PipeEdgeError(f"{folder}/{fault}")
    return files


_MODELS = TypeAdapter(dict[str, Model])
_DEVICE_TYPES = TypeAdapter(dict[str, DeviceType])
_DEVICES = TypeAdapter(dict[str, list[Annotated[str, Field(min_length=1, max_length=255)]]])
_Content = TypeVar("_Content")


def _checked(path: Path, adapter: TypeAdapter[_Content]) -> _Content:
    """What a file holds."""
    try:
        text = bounded.text(path, _MOST_BYTES)
        # A few lines of aliases can stand for gigabytes.
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise PipeEdgeError(f"{path}: has a YAML alias; write out what it stands for")
        content = yaml_text.load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise PipeEdgeError(f"{path}: {' '.join(str(error).split())}") from error
    try:
        return adapter.validate_python(content)
    except ValidationError as error:
        fault = error.errors()[0]
        allowed = [*Model.model_fields, *DeviceType.model_fields, *Profile.model_fields]
        where = faults.key_path(fault["loc"])
        raise PipeEdgeError(f"{path}: {where}: {faults.said(fault, allowed)}") from error


def _disagreements(files: Files) -> Iterator[str]:
    """What does not fit together: file, key, and what is allowed."""
    for name, model in files.models.items():
        for key in ("mem_MB", "parameters_out"):
            if (count := len(getattr(model, key))) != model.layers:
                yield f"{MODELS}: {name}.{key}: has {count} numbers; layers is {model.layers}"
    for kind, device in files.device_types.items():
        for model_name, profiles in (device.model_profiles or {}).items():
            where = f"{DEVICE_TYPES}: {kind}.model_profiles.{model_name}"
            if model_name not in files.models:
                yield f"{where}: {MODELS} has no such model"
                continue
            layers = files.models[model_name].layers
            for number, profile in enumerate(profiles):
                if profile.dtype.removeprefix(_PREFIX) not in DTYPE_BYTES:
                    allowed = ", ".join(f"{_PREFIX}{each}" for each in DTYPE_BYTES)
                    told = f"one of {allowed}; got {shown(profile.dtype)}"
                    yield f"{where}[{number}].dtype: {told}"
                if len(profile.time_s) != layers:
                    told = f"has {len(profile.time_s)} numbers; the model has {layers} layers"
                    yield f"{where}[{number}].time_s: {told}"
    for kind, hosts in files.devices.items():
        if hosts and kind not in files.device_types:
            yield f"{DEVICES}: {kind}: {DEVICE_TYPES} has no such kind"
        elif hosts and not files.device_types[kind].bw_Mbps:
            yield f"{DEVICE_TYPES}: {kind}.bw_Mbps: above 0, since {DEVICES} names hosts of it"
    every = [host for hosts in files.devices.values() for host in hosts]
    for host in every:
        if every.count(host) > 1:
            yield f"{DEVICES}: {shown(host)}: is named more than once"


def fleets(files: Files) -> Iterator[tuple[dict[str, Any], Fleet]]:
    """The pipelines that files describe.

    Yields
    ------
    For each model, batch size and dtype that a kind with hosts has a profile of: these, as
    ``model``, ``batch`` and ``dtype``; and its hosts, of which any may be the first.

    Raises
    ------
    PipeEdgeError
        When there are too many combinations of hosts.
    """
    profiles: dict[tuple[str, int, str], dict[str, Profile]] = {}
    for kind, device in files.device_types.items():
        for model, each in (device.model_profiles or {}).items():
            for profile in each if files.devices.get(kind) and files.models[model].layers else ():
                key = model, profile.batch_size, profile.dtype.removeprefix(_PREFIX)
                profiles.setdefault(key, {})[kind] = profile
    for (model, batch, dtype), kinds in profiles.items():
        available = tuple(len(files.devices[kind]) for kind in kinds)
        if (count := int(np.prod(np.array(available) + 1.0))) > _MOST_ORDERS:
            raise PipeEdgeError(
                f"{DEVICES}: {model}: its hosts have {count} combinations; at most {_MOST_ORDERS} "
                "are searched"
            )
        about = {"model": model, "batch": batch, "dtype": dtype}
        yield about, _fleet(files, files.models[model], kinds, available, batch, dtype)


def _fleet(
    files: Files,
    model: Model,
    kinds: Mapping[str, Profile],
    available: tuple[int, ...],
    batch: int,
    dtype: str,
) -> Fleet:
    """The hosts that have a profile of a model."""
    item = DTYPE_BYTES[dtype] * batch
    sent = item * np.array([model.parameters_in, *model.parameters_out], dtype=np.float64)
    seconds = np.array([profile.time_s for profile in kinds.values()], dtype=np.float64)
    prefix = 1e3 * np.pad(np.cumsum(seconds, axis=1), ((0, 0), (1, 0)))
    rates = [files.device_types[kind].bw_Mbps for kind in kinds]
    room = np.array([files.device_types[kind].mem_MB for kind in kinds]) * MIB
    need = _needed_bytes(model, sent)
    return Fleet(
        places=tuple(map(str, range(model.layers + 1))),
        hosts=tuple(kinds),
        available=available,
        waiting_ms=prefix,
        busy_ms=prefix,
        item_ms=(0.0,) * len(kinds),
        forward_bytes=np.append(sent[:-1], 0.0),
        return_bytes=0.0,
        hop=lambda one, other: Hop(0.0, 8e3 / MIB / min(rates[one], rates[other])),
        back=lambda sink, source: Hop(0.0, 0.0),
        sources=tuple(range(len(kinds))),
        fits=need[None] < room[:, None, None],
    )


def _needed_bytes(model: Model, sent: NDArray[np.float64]) -> NDArray[np.float64]:
    """What a stage between two places needs, array (m, m), as the scheduler counts it."""
    held = MIB * np.append(0.0, np.cumsum(model.mem_MB))
    arriving = sent * np.append(1, np.full(model.layers, 1 + _BUFFERS))
    need: NDArray[np.float64] = held[None, :] - held[:, None] + arriving[:, None]
    need += (1 + _BUFFERS) * sent[None, :]
    return need

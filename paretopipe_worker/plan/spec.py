"""Experiment specs: what a person writes in ``experiments/NAME.yml``, checked once, here.

Every refusal names the file, the key path and what is allowed, before any host is touched.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Hashable, Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic.dataclasses import dataclass

from paretopipe_worker.link import profiles
from paretopipe_worker.link.conditions import TcpSettings
from paretopipe_worker.link.profiles import UNSHAPED, LinkSpec
from paretopipe_worker.plan.window import MOST
from paretopipe_worker.transport.backends import BACKENDS
from paretopipe_worker.usertext import located, shown


def _known_backend(value: str) -> str:
    """Refuse a backend there is not."""
    if value not in BACKENDS:
        raise ValueError(f"must be one of {', '.join(map(repr, BACKENDS))}")
    return value


Backend = Annotated[str, AfterValidator(_known_backend)]

Granularity = Literal["block", "op"]
Dtype = Literal["float32"]

MIN_ITEMS = 6
"""Fewest items a median is taken of; a point with fewer has failed."""

_STRICT = ConfigDict(extra="forbid", strict=True)
_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]{0,62}$")]
_Model = Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*(:[A-Za-z_]\w*)?$", max_length=200)]


def _unique(values: tuple[Hashable, ...]) -> tuple[Hashable, ...]:
    """Refuse repeats: they would be measured twice under one name."""
    if len(set(values)) != len(values):
        raise ValueError("must not repeat a value")
    return values


def _unique_names(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Refuse two entries of one name."""
    _unique(tuple(value.name for value in values))
    return values


def _rising(values: tuple[float, ...]) -> tuple[float, ...]:
    """Refuse rates that do not grow: the legs end at the first that is too much."""
    if sorted(set(values)) != list(values):
        raise ValueError("must grow from one to the next")
    return values


_TCP = TcpSettings()
_SOME = Field(min_length=1)
_DISTINCT = AfterValidator(_unique)
_DISTINCT_NAMES = AfterValidator(_unique_names)
_Batch = Annotated[int, Field(ge=1, le=4096)]
_Window = Annotated[int, Field(ge=1, le=MOST)] | Literal["auto"]
_Share = Annotated[float, Field(gt=0, le=2)]
_Size = Annotated[int, Field(ge=1, le=8192)]
_Shape = Annotated[tuple[_Size, ...], Field(min_length=1, max_length=4)]
_Placement = Annotated[tuple[_Name, ...], Field(min_length=2), _DISTINCT]
_CutName = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True, config=_STRICT)
class ModelSpec:
    """A model: a torchvision classifier's name, or ``package.module:factory``.

    `input` is the shape of one image ``(channels, height, width)``, by default the model's own;
    `weights` the path of a checkpoint on the controller, absolute once the spec is read, by default
    seeded random weights.
    """

    name: _Model
    input: _Shape | None = None
    weights: str | None = None


@dataclass(frozen=True, config=_STRICT)
class SplitSpec:
    """Which cuts to measure: ``all`` of a granularity, or a list of names.

    The endpoints ``@first`` and ``@last`` are always measured as well: splitting must beat them.
    """

    granularity: Granularity = "block"
    cuts: Literal["all"] | Annotated[tuple[_CutName, ...], _SOME, _DISTINCT] = "all"


@dataclass(frozen=True, config=_STRICT)
class LoadSpec:
    """Legs in which items arrive at random, at growing shares of the throughput just measured.

    Each takes `min_items` and `min_s`, or the phases' maximum time. They end at the knee.
    """

    shares: Annotated[tuple[_Share, ...], _SOME, AfterValidator(_rising)] = (
        *(0.2, 0.4, 0.6, 0.8),
        *(0.9, 1.0),
    )
    min_items: Annotated[int, Field(ge=MIN_ITEMS, le=1_000_000)] = 50
    min_s: Annotated[float, Field(ge=0, le=3600)] = 2.0


@dataclass(frozen=True, config=_STRICT)
class PhaseSpec:
    """When a phase ends: minimum count and minimum time both reached, or the maximum time.

    Before it, items warm up until they are steady, but at most `warmup_items` (and those that fill
    the window) or `warmup_s`. A phase on a disturbed host is measured again, up to `retries` times,
    each `cool_down_s` later. `load` asks for latency at several rates of arrival.
    """

    min_items: Annotated[int, Field(ge=MIN_ITEMS, le=1_000_000)] = 20
    min_s: Annotated[float, Field(ge=0, le=3600)] = 1.0
    max_s: Annotated[float, Field(gt=0, le=36_000)] = 60.0
    warmup_items: Annotated[int, Field(ge=1, le=10_000)] = 20
    warmup_s: Annotated[float, Field(ge=0, le=3600)] = 5.0
    retries: Annotated[int, Field(ge=0, le=10)] = 1
    cool_down_s: Annotated[float, Field(ge=0, le=3600)] = 0.0
    load: LoadSpec | None = None

    @model_validator(mode="after")
    def _maximum_above_minimum(self) -> PhaseSpec:
        """Refuse a maximum time that the minimum time never reaches."""
        if self.max_s < self.min_s:
            raise ValueError(f"max_s must be at least min_s ({self.min_s:g})")
        return self


@dataclass(frozen=True, config=_STRICT)
class CertifySpec:
    """When the path of a session is measured again between its points.

    After points of `every_min` minutes as the plan predicts them, but at least ten times as long as
    measuring the path takes; or after `every_points` points, whichever comes first.
    """

    every_min: Annotated[float, Field(gt=0, le=10_000)] = 10.0
    every_points: Annotated[int, Field(ge=1, le=1_000_000)] | None = None


@dataclass(frozen=True, config=_STRICT)
class Experiment:
    """A whole experiment: every combination of its lists is measured.

    `links` are written as `paretopipe_worker.link.profiles` says, and resolved here. `tcp` holds
    on all of them.
    `placements` lists inventory hosts by rank, source first; by default one placement, the hosts
    of the inventory's group ``stages`` in their order there. A `window` of ``auto`` is chosen for
    each point when its latency is known, so that it fills the path.
    """

    models: Annotated[tuple[ModelSpec, ...], _SOME, _DISTINCT_NAMES]
    description: str = ""
    links: Annotated[tuple[LinkSpec, ...], _SOME, _DISTINCT_NAMES] = (LinkSpec(UNSHAPED),)
    tcp: TcpSettings = _TCP
    backends: Annotated[tuple[Backend, ...], _SOME, _DISTINCT] = ("tcp",)
    placements: Annotated[tuple[_Placement, ...], _SOME, _DISTINCT] | None = None
    splits: SplitSpec = SplitSpec()
    batch: Annotated[tuple[_Batch, ...], _SOME, _DISTINCT] = (1,)
    window: Annotated[tuple[_Window, ...], _SOME, _DISTINCT] = (3,)
    dtype: Annotated[tuple[Dtype, ...], _SOME, _DISTINCT] = ("float32",)
    replicates: Annotated[int, Field(ge=1, le=1000)] = 1
    phases: PhaseSpec = PhaseSpec()
    certify: CertifySpec = CertifySpec()
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0


class SpecError(ValueError):
    """An experiment spec was refused: one line per fault, each with file, key path, allowed."""


_ADAPTER = TypeAdapter(Experiment)


def load(path: Path) -> Experiment:
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
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SpecError(f"{path}: is not valid YAML: {error}") from error
    return parse(document, str(path), path.parent)


def parse(document: object, source: str = "spec", folder: Path = Path()) -> Experiment:
    """Check an experiment given as plain data.

    Parameters
    ----------
    source
        What errors call it.
    folder
        Where relative paths of traces and weights begin, see
        :func:`paretopipe_worker.usertext.located`.

    Raises
    ------
    SpecError
        One line for each value that is not allowed.
    """
    if not isinstance(document, dict):
        raise SpecError(f"{source}: must be a mapping with at least the key 'models'")
    full = _written_out(document, folder)
    faults = _resolve_links(source, full, folder)
    try:
        # As JSON, where strict mode takes lists for tuples and mappings for dataclasses.
        experiment = _ADAPTER.validate_json(json.dumps(full, default=str))
    except ValidationError as error:
        faults += [_fault(source, entry) for entry in _root_causes(error)]
    if faults:
        raise SpecError("\n".join(dict.fromkeys(faults)))
    return experiment


def _written_out(document: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Write out what may be short: ``8`` for ``[8]``, ``resnet18`` for ``{name: resnet18}``."""
    full = dict(document)
    for key in ("backends", "batch", "window", "dtype"):
        if key in full and not isinstance(full[key], list):
            full[key] = [full[key]]
    if isinstance(full.get("models"), list):
        full["models"] = [_model_written_out(part, folder) for part in full["models"]]
    return full


def _model_written_out(part: object, folder: Path) -> object:
    """Write out a model: its name alone, and where its checkpoint lies."""
    if isinstance(part, str):
        return {"name": part}
    if isinstance(part, dict) and isinstance(part.get("weights"), str):
        return part | {"weights": str(located(part["weights"], folder))}
    return part


def _resolve_links(source: str, document: dict[str, Any], folder: Path) -> list[str]:
    """Put resolved profiles into the document; where one is refused, say so and leave them out."""
    faults = []
    if isinstance(document.get("links"), list):
        resolved = []
        for number, written in enumerate(document.pop("links")):
            try:
                resolved.append(asdict(profiles.parse(written, folder)))
            except profiles.ProfileError as error:
                path = _key_path(("links", number, *error.path))
                faults.append(f"{source}: {path}: {error}")
        if not faults:
            document["links"] = resolved
    return faults


class _UniqueKeys(yaml.SafeLoader):
    """YAML's safe loader, refusing a key given twice, of which it would keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Build a mapping whose keys differ."""
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {shown(key)} is given twice", node.start_mark
                )
        return super().construct_mapping(node, deep)


def _root_causes(error: ValidationError) -> list[Any]:
    """The errors, less those that only say a list is too short once its bad entries are gone."""
    entries = error.errors()
    return [
        entry
        for entry in entries
        if entry["type"] != "too_short"
        or not any(
            other is not entry and other["loc"][: len(entry["loc"])] == entry["loc"]
            for other in entries
        )
    ]


def _fault(source: str, error: Any) -> str:
    """One pydantic error as file, key path, what is wrong, what is allowed."""
    location = tuple(part for part in error["loc"] if _is_key(part))
    allowed = _allowed_keys(location[:-1])
    path = _key_path(location)
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        near = difflib.get_close_matches(str(location[-1]), allowed, n=1)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        return f"{source}: {path}: unknown key{hint}; allowed: {', '.join(allowed)}"
    if error["type"] in ("missing", "missing_argument"):
        return f"{source}: {path}: is required"
    message = error["msg"].removeprefix("Value error, ")
    key, _, reason = message.partition(": ")
    if key in _allowed_keys(location):  # a check of our own, which names the value itself
        return f"{source}: {path}.{key}: {reason}"
    got = shown(error["input"])
    return f"{source}: {path or 'spec'}: {message[0].lower()}{message[1:]}; got {got}"


def _is_key(part: object) -> bool:
    """Tell a key or index of the document from the names pydantic gives to union branches."""
    return isinstance(part, int) or part in _KEYS or not str(part).startswith(_BRANCHES)


def _key_path(location: Iterable[object]) -> str:
    """Write ``("links", 1, "rate_mbit")`` as ``links[1].rate_mbit``."""
    text = ""
    for part in location:
        name = shown(part) if len(str(part)) > 60 else str(part)  # a key may be anything
        text += f"[{part}]" if isinstance(part, int) else f".{name}" if text else name
    return text


def _allowed_keys(location: tuple[object, ...]) -> list[str]:
    """Keys allowed in the mapping at `location`."""
    owner: type = Experiment
    for part in location:
        if isinstance(part, str):
            owner = _NESTED.get(part, owner)
    return [entry.name for entry in fields(owner)]


_NESTED: dict[str, type] = {
    "models": ModelSpec,
    "tcp": TcpSettings,
    "splits": SplitSpec,
    "phases": PhaseSpec,
    "load": LoadSpec,
    "certify": CertifySpec,
}
_KEYS = frozenset(
    entry.name for owner in (Experiment, *_NESTED.values()) for entry in fields(owner)
)
_BRANCHES = ("function-", "literal[", "tuple[", "constrained-", "none", "str", "int", "float")

"""What an experiment may ask for: the keys of ``experiments/NAME.yml`` and their allowed values."""

from __future__ import annotations

import json
from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    PlainValidator,
    TypeAdapter,
    model_validator,
)
from pydantic.dataclasses import dataclass

from paretopipe_worker.cuts import DTYPE_BYTES, EXPORTED, PLAIN
from paretopipe_worker.execution.runtimes import RUNTIMES
from paretopipe_worker.link.conditions import TcpSettings
from paretopipe_worker.link.profiles import UNSHAPED, LinkSpec
from paretopipe_worker.plan.session_specs import CertifySpec, ProfileSpec, Profiling
from paretopipe_worker.plan.strategy import LimitSpec, SplitSpec, Strategy, distinct
from paretopipe_worker.plan.window import MOST, Window
from paretopipe_worker.transport.backends import BACKENDS
from paretopipe_worker.usertext import is_path, shown
from paretopipe_worker.wire.formats import FORMATS

INVENTORY = "inventory"
"""Entry of `runtimes` that leaves the choice to each host's variable `runtime`."""

MIN_ITEMS = 6
"""Fewest items a median is taken of; a point with fewer has failed."""

_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def _known_dtype(value: str) -> str:
    """Refuse a dtype that cannot cross a link."""
    if value not in DTYPE_BYTES:
        raise ValueError(f"must be one of {', '.join(DTYPE_BYTES)}")
    return value


def _known_backend(value: str) -> str:
    """Refuse an unknown backend."""
    if value not in BACKENDS:
        raise ValueError(f"must be one of {', '.join(map(repr, BACKENDS))}")
    return value


def _known_format(value: str) -> str:
    """Refuse an unknown wire format."""
    if value not in FORMATS:
        raise ValueError(f"must be one of {', '.join(map(repr, FORMATS))}")
    return value


def _unique_names(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Refuse two entries of one name."""
    distinct(tuple(value.name for value in values))
    return values


def _rising(values: tuple[float, ...]) -> tuple[float, ...]:
    """Refuse rates that do not grow: the legs end at the first rate that is too high."""
    if sorted(set(values)) != list(values):
        raise ValueError("must grow from one to the next")
    return values


_TCP = TcpSettings()
_SOME = Field(min_length=1)
_DISTINCT = AfterValidator(distinct)
_DISTINCT_NAMES = AfterValidator(_unique_names)
_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]{0,62}$")]
_MODEL = r"^(timm/)?[A-Za-z_][\w.]*(:[A-Za-z_]\w*)?$"
_Model = Annotated[str, Field(pattern=_MODEL, max_length=200)]
_Requirement = Annotated[str, Field(pattern=r"^[A-Za-z0-9][^\r\n]*$", max_length=200)]
_Argument = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")]
_Backend = Annotated[str, AfterValidator(_known_backend)]
_Batch = Annotated[int, Field(ge=1, le=4096)]
_Dtype = Literal["float32", "bfloat16", "float16", "int8"]
_Wire = Annotated[str, AfterValidator(_known_format)]
_InputDtype = Annotated[str, AfterValidator(_known_dtype)]
_Sources = Annotated[int, Field(ge=1, le=64)]
_Share = Annotated[float, Field(gt=0, le=2)]
_Size = Annotated[int, Field(ge=1, le=8192)]
_Shape = Annotated[tuple[_Size, ...], Field(min_length=1, max_length=4)]
_Placement = Annotated[tuple[_Name, ...], Field(min_length=2), _DISTINCT]
_PLACEMENTS = TypeAdapter[tuple[tuple[str, ...], ...]](
    Annotated[tuple[_Placement, ...], _SOME, _DISTINCT]
)


def _window(value: object) -> Window:
    """Accept a size or ``auto``."""
    if value == "auto" or (type(value) is int and 1 <= value <= MOST):
        return value
    raise ValueError(f"must be a whole number from 1 to {MOST}, or 'auto'")


def _placements(value: object) -> Literal["all", "pairs"] | tuple[tuple[str, ...], ...] | None:
    """Accept ``all``, ``pairs``, or a list of placements."""
    if value is None or value == "all" or value == "pairs":
        return value
    if not isinstance(value, list | tuple):
        raise ValueError(
            "must be 'all', 'pairs' or a list of placements, which are lists of hosts by rank"
        )
    return _PLACEMENTS.validate_python(value)


def _runtimes(value: object) -> str | dict[str, str]:
    """Accept ``inventory``, a runtime, or the runtimes of some hosts."""
    if value == INVENTORY or value in tuple(RUNTIMES):
        return str(value)
    known = ", ".join(map(repr, RUNTIMES))
    if not isinstance(value, dict) or not value:
        raise ValueError(
            f"must be {INVENTORY!r}, one of {known} (for all hosts), or a mapping of hosts to these"
        )
    for host, name in value.items():
        if name not in tuple(RUNTIMES):
            raise ValueError(f"host {shown(host)} must have one of {known}; got {shown(name)}")
    return dict(value)


def _differ(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Refuse repeats among values that have no hash."""
    if any(values.count(value) > 1 for value in values):
        raise ValueError("must not repeat a value")
    return values


# Functions in place of unions: of a union pydantic reports what each alternative refuses, under a
# name of its own for the alternative. A function says once what is allowed.
_Window = Annotated[Window, PlainValidator(_window)]
_Placements = Annotated[
    Literal["all", "pairs"] | tuple[tuple[str, ...], ...] | None, PlainValidator(_placements)
]


_Runtimes = Annotated[str | dict[str, str], PlainValidator(_runtimes)]


@dataclass(frozen=True, config=_STRICT)
class ModelInput:
    """One of the tensors that a model takes: its shape without the batch, and its dtype.

    Whole numbers are drawn from `low` to `high`, the latter excluded; so are indices of words.
    """

    shape: Annotated[tuple[_Size, ...], Field(max_length=5)]
    dtype: _InputDtype = "float32"
    low: int = 0
    high: int = 2

    @model_validator(mode="after")
    def _some_numbers(self) -> ModelInput:
        """Refuse bounds between which there is no number."""
        if self.high <= self.low:
            raise ValueError(f"high must be above low ({self.low})")
        return self


@dataclass(frozen=True, config=_STRICT)
class ImageSpec:
    """Inputs that are images: the first `count` of a folder by name, sent in turn.

    `shape` is that of a prepared image ``(channels, height, width)``, by default the model's own.
    An item of a larger batch begins one image after the item before it.
    """

    images: Annotated[str, Field(min_length=1)]
    shape: Annotated[tuple[_Size, ...], Field(min_length=3, max_length=3)] | None = None
    count: Annotated[int, Field(ge=2, le=64)] = 4


_TENSORS = TypeAdapter[tuple[ModelInput, ...]](tuple[ModelInput, ...])
_IMAGES = TypeAdapter[ImageSpec](ImageSpec)


def _inputs(value: object) -> tuple[ModelInput, ...] | ImageSpec:
    """Accept a list of tensors, or a folder of images."""
    if isinstance(value, ImageSpec) or (
        isinstance(value, tuple) and all(isinstance(each, ModelInput) for each in value)
    ):
        return value
    if not isinstance(value, dict | list):
        raise ValueError("must be a list of inputs, or a mapping that names a folder of images")
    # As JSON, see `paretopipe_worker.plan.spec.parse`.
    text = json.dumps(value)
    return _IMAGES.validate_json(text) if isinstance(value, dict) else _TENSORS.validate_json(text)


_Inputs = Annotated[tuple[ModelInput, ...] | ImageSpec, PlainValidator(_inputs)]


@dataclass(frozen=True, config=_STRICT)
class ModelSpec:
    """A model: a torchvision classifier's name, ``timm/NAME``, or ``package.module:factory``.

    `input` is the shape of one image ``(channels, height, width)``, by default the model's own;
    `inputs`, in its place, lists what a model takes that has several or other ones, or names a
    folder of images. `weights` is the path of a checkpoint on the controller, or the name of
    weights that the model's library publishes (``DEFAULT``, ``IMAGENET1K_V1``; timm has
    ``pretrained``); by default the weights are random, drawn with the experiment's seed. `factory`
    is what builds the model where that is not its name, and `arguments` are keyword arguments for
    it, so that one factory makes several models. `path` is a file or folder in which the factory's
    module lies, or a ``.pt2`` file, which is the model. Paths are made absolute when the spec is
    read. Hosts need none of these: they get programs. `requirements` are what pip is to install on
    them for the model's operators.
    """

    name: _Model
    input: _Shape | None = None
    weights: str | None = None
    inputs: _Inputs = ()
    factory: _Model | None = None
    arguments: dict[_Argument, str | int | float | bool | None] = field(default_factory=dict)
    path: str | None = None
    requirements: tuple[_Requirement, ...] = ()

    @model_validator(mode="after")
    def _one_way_of_saying(self) -> ModelSpec:
        """Refuse both ways of saying what it takes, and a path where nothing lies."""
        if self.input and self.inputs:
            raise ValueError("input and inputs say the same: allowed is one of them")
        if self.path and not self.exported and ":" not in (self.factory or self.name):
            raise ValueError("path: allowed is a .pt2 file, and for package.module:factory its own")
        return self

    @property
    def exported(self) -> bool:
        """Whether the model is a ``.pt2`` file."""
        return self.path is not None and self.path.endswith(EXPORTED)

    @property
    def checkpoint(self) -> str | None:
        """The path of a checkpoint, where `weights` is one."""
        return self.weights if self.weights and is_path(self.weights) else None

    @property
    def images(self) -> ImageSpec | None:
        """The folder of images, where the inputs are images."""
        return self.inputs if isinstance(self.inputs, ImageSpec) else None

    @property
    def in_files(self) -> bool:
        """Whether files that may change without notice decide what is measured of it."""
        return bool(self.weights or self.images or self.exported)


@dataclass(frozen=True, config=_STRICT)
class LoadSpec:
    """Legs in which items arrive at random, at growing shares of the throughput just measured.

    A leg ends when `min_items` and `min_s` are both reached, or after the maximum time of the
    phases. No leg follows the first one at the knee of the latency curve.
    """

    shares: Annotated[tuple[_Share, ...], _SOME, AfterValidator(_rising)] = (
        *(0.2, 0.4, 0.6, 0.8),
        *(0.9, 1.0),
    )
    min_items: Annotated[int, Field(ge=MIN_ITEMS, le=1_000_000)] = 50
    min_s: Annotated[float, Field(ge=0, le=3600)] = 2.0


@dataclass(frozen=True, config=_STRICT)
class PhaseSpec:
    """When a leg ends: after the minimum count and the minimum time, or after the maximum time.

    Before the items that count, items warm up until they are steady, but at most `warmup_items`
    (and those that fill the window) or `warmup_s`. A leg during which a host was disturbed is
    measured again up to `retries` times, each after a rest of `cool_down_s`. `load` asks for
    latency at several rates of arrival.
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
        """Refuse a maximum time that is below the minimum time."""
        if self.max_s < self.min_s:
            raise ValueError(f"max_s must be at least min_s ({self.min_s:g})")
        return self


@dataclass(frozen=True, config=_STRICT)
class Experiment:
    """A whole experiment: every combination of its lists is measured.

    `links` are written as `paretopipe_worker.link.profiles` describes, and hold resolved profiles
    here. `tcp` applies to all of them. `placements` lists inventory hosts by rank, source first;
    ``all`` are all sequences of at least two different hosts of the inventory's group ``stages``,
    ``pairs`` its hosts two by two. By default there is one placement, these hosts in their order.
    A `window` of ``auto`` is chosen for each point once its latency is known, so that it fills the
    path. `wire` names the formats in which tensors cross on their way forward.
    `sources` are how many sources share the sink's host, each with a pipeline like the placement's
    (:mod:`paretopipe_worker.plan.lanes`).
    `strategy` says which splits are measured: ``all``, a sample, or ``guided`` by what is measured
    first. Without one all are, where the plan is within `limit`. Each entry of `runtimes` says what
    executes the stages: a runtime for all hosts, a mapping of hosts to runtimes, or ``inventory``,
    which also holds for hosts that a mapping leaves out. A `dtype` of ``int8`` is float32 quantised
    by the runtime. `busy` says whether hosts run their background load meanwhile, those that have
    one. `profile` says how hosts profile their programs, or is false where they do not.
    """

    models: Annotated[tuple[ModelSpec, ...], _SOME, _DISTINCT_NAMES]
    description: str = ""
    links: Annotated[tuple[LinkSpec, ...], _SOME, _DISTINCT_NAMES] = (LinkSpec(UNSHAPED),)
    tcp: TcpSettings = _TCP
    backends: Annotated[tuple[_Backend, ...], _SOME, _DISTINCT] = ("tcp",)
    placements: _Placements = None
    splits: SplitSpec = SplitSpec()
    strategy: Strategy = None
    limit: LimitSpec = LimitSpec()
    batch: Annotated[tuple[_Batch, ...], _SOME, _DISTINCT] = (1,)
    window: Annotated[tuple[_Window, ...], _SOME, _DISTINCT] = (3,)
    dtype: Annotated[tuple[_Dtype, ...], _SOME, _DISTINCT] = ("float32",)
    runtimes: Annotated[tuple[_Runtimes, ...], _SOME, AfterValidator(_differ)] = (INVENTORY,)
    wire: Annotated[tuple[_Wire, ...], _SOME, _DISTINCT] = (PLAIN,)
    busy: Annotated[tuple[bool, ...], _SOME, _DISTINCT] = (False,)
    sources: Annotated[tuple[_Sources, ...], _SOME, _DISTINCT] = (1,)
    replicates: Annotated[int, Field(ge=1, le=1000)] = 1
    phases: PhaseSpec = PhaseSpec()
    certify: CertifySpec = CertifySpec()
    profile: Profiling = ProfileSpec()
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0

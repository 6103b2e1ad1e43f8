"""What an experiment may say of its splits: at which cuts, which of them, and how many at most."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, PlainValidator, TypeAdapter
from pydantic.dataclasses import dataclass

_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def distinct(values: tuple[Hashable, ...]) -> tuple[Hashable, ...]:
    """Refuse repeats: they would be measured twice under one name."""
    if len(set(values)) != len(values):
        raise ValueError("must not repeat a value")
    return values


_SOME = Field(min_length=1)
_DISTINCT = AfterValidator(distinct)
_Entry = str | tuple[str, ...]
_CutName = Annotated[str, Field(min_length=1, strict=True)]
_SPLIT = TypeAdapter[tuple[str, ...]](Annotated[tuple[_CutName, ...], _SOME])


def _cut(value: object) -> _Entry:
    """Accept the name of a cut, or the names of all cuts of a split."""
    if isinstance(value, list | tuple):
        return _SPLIT.validate_python(value)
    if isinstance(value, str) and value:
        return value
    raise ValueError("must be the name of a cut, or a list of the names of all cuts of a split")


_Cut = Annotated[_Entry, PlainValidator(_cut)]
_CUTS = TypeAdapter[tuple[_Entry, ...]](Annotated[tuple[_Cut, ...], _SOME, _DISTINCT])


def _cuts(value: object) -> Literal["all"] | tuple[_Entry, ...]:
    """Accept ``all``, or names and splits."""
    if value == "all":
        return "all"
    if not isinstance(value, list | tuple):
        raise ValueError("must be 'all' or a list of names of cuts")
    return _CUTS.validate_python(value)


_Cuts = Annotated[Literal["all"] | tuple[_Entry, ...], PlainValidator(_cuts)]


@dataclass(frozen=True, config=_STRICT)
class SplitSpec:
    """Which splits to measure: a pipeline of k stages is split at k-1 cuts.

    `cuts` is ``all`` of a granularity, or a list. A name in the list is a candidate: each choice of
    k-1 candidates, in the order in which the data reaches them, is a split. A list of k-1 names in
    it is that split as it is, for placements of k hosts: there two neighbours may be equal, and the
    stage between them is empty. The endpoints, all on one host, are always measured as well, since
    splitting must beat them; among the candidates their names change nothing.

    At granularity ``op`` cuts are where at most `max_tensors` tensors cross.
    """

    granularity: Literal["block", "op"] = "block"
    cuts: _Cuts = "all"
    max_tensors: Annotated[int, Field(ge=1, le=64)] = 1


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Sample:
    """A strategy: `sample` splits beside the endpoints, drawn for each model and number of stages.

    They are drawn from all that `splits.cuts` stands for, with the seed of the experiment. They are
    the same for all links, backends, batches and windows, and for placements of as many hosts, so
    that these can be compared.
    """

    sample: Annotated[int, Field(ge=1, le=1_000_000, strict=True)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class GuideSpec:
    """How a guided sweep ends: settled to within `epsilon`, or at a budget of `hours`.

    It is settled when no point that was left out can be better than a measured one by more than the
    share `epsilon` in latency and in throughput. Hours are those in which sessions run.
    """

    epsilon: Annotated[float, Field(gt=0, le=1, strict=True)] = 0.02
    hours: Annotated[float, Field(gt=0, le=1_000_000, strict=True)] | None = None


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Guided:
    """A strategy: measure what may be on the front, in generations (:mod:`.generations`).

    The plan holds all splits that `splits.cuts` stands for. Which of them are measured follows from
    what was measured before.
    """

    guided: GuideSpec


_SAMPLE, _GUIDED = TypeAdapter(Sample), TypeAdapter(Guided)


def _strategy(value: object) -> Literal["all"] | Sample | Guided | None:
    """Accept ``all``, ``guided`` with or without its settings, or a sample."""
    if value is None or value == "all" or isinstance(value, Sample | Guided):
        return value
    if value == "guided":
        return Guided(GuideSpec())
    if not isinstance(value, dict) or {"sample", "guided"} <= set(value):
        raise ValueError(
            "must be 'all', 'guided', or a mapping such as {sample: 20} or {guided: {hours: 2}}"
        )
    return (_GUIDED if "guided" in value else _SAMPLE).validate_python(value)


Strategy = Annotated[Literal["all"] | Sample | Guided | None, PlainValidator(_strategy)]


@dataclass(frozen=True, config=_STRICT)
class LimitSpec:
    """How large a plan may get without a strategy and without a list of cuts: it is refused beyond.

    A third stage makes hundreds of splits of a network that has twenty cuts.
    """

    points: Annotated[int, Field(ge=1, le=100_000_000)] = 5_000
    hours: Annotated[float, Field(gt=0, le=1_000_000)] = 2_000.0

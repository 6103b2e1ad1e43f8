"""Cut tables: where a model can be cut and what crosses there.

They are made once per run by :mod:`paretopipe_worker.model.partition`. Planning and analysis need
nothing else of a model, so neither needs torch.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

FIRST = "@first"
"""Endpoint: every operation runs on the first device, and nothing crosses."""

LAST = "@last"
"""Endpoint: every operation runs on the last device, and the input crosses."""

EXPORTED = ".pt2"
"""Suffix of a file that ``torch.export.save`` wrote, which is a model."""

PLAIN = "fp32"
"""Wire format in which tensors cross as they are."""

EAGER = "eager"
"""Runtime that executes a stage by torch, operator by operator."""

FLOAT32 = "float32"
"""Number format of models as they are built, and of what their outputs are compared with."""

INT8 = "int8"
"""Number format that a runtime makes of a float32 program; float32 crosses all the same."""

DTYPE_BYTES = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}
"""Bytes per element of each dtype that may cross a link, by torch's name."""


@dataclass(frozen=True)
class TensorSpec:
    """Shape and dtype of one tensor that crosses a link."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """Size of the raw tensor data in bytes."""
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]


@dataclass(frozen=True)
class Varying(TensorSpec):
    """Bytes whose number differs from message to message: `shape` holds the most there can be."""

    @classmethod
    def up_to(cls, most: int) -> Varying:
        """From one to so many bytes."""
        return cls((most,), "uint8")


@dataclass(frozen=True)
class InputSpec(TensorSpec):
    """Shape, batch first, and dtype of one tensor that goes into a model.

    Whole numbers are drawn from `low` to `high`, the latter excluded.
    """

    low: int = 0
    high: int = 2


@dataclass(frozen=True)
class Cut:
    """One place where a stage may end in the graph: its name and the tensors that cross there."""

    name: str
    tensors: tuple[TensorSpec, ...]

    @property
    def payload_bytes(self) -> int:
        """Bytes of tensor data that cross per batch, without headers."""
        return payload_bytes(self.tensors)


@dataclass(frozen=True)
class Footprint:
    """Memory that the parts of a model between neighbouring cuts of its table need.

    Part 0 lies before the first cut, part n behind the n-th. A stage consists of parts that follow
    one another. So few figures describe every stage of every split.

    Attributes
    ----------
    held
        Bytes of tensors, and the numbers of all parts that use these tensors.
    peaks
        Of each part, the most bytes of values that are alive at once, what comes in and goes out
        included.
    """

    held: tuple[tuple[int, tuple[int, ...]], ...]
    peaks: tuple[int, ...]

    def held_bytes(self, parts: Sequence[int]) -> int:
        """Bytes of the tensors that a stage of these parts holds: each counts once."""
        return sum(size for size, users in self.held if not set(users).isdisjoint(parts))

    def peak_bytes(self, parts: Sequence[int]) -> int:
        """Most bytes of values alive at once in a stage of these parts, an upper bound.

        What lives across a cut counts on both of its sides, so no part has more alive inside a
        stage than by itself. It may have less, since a stage may write over what it made.
        """
        return max((self.peaks[part] for part in parts), default=0)

    def all_held(self, parts: Collection[int]) -> bool:
        """Whether stages of these parts hold every tensor of the model between them."""
        return all(not set(users).isdisjoint(parts) for _, users in self.held)


@dataclass(frozen=True)
class CutTable:
    """All valid cuts of one model at one batch size, in topological order, without endpoints.

    `forward_ns` is the time of one whole forward pass on the machine that made the table, used only
    to predict how long a sweep takes. `graph_sha256` identifies the program that every host runs,
    `weights_sha256` its tensors and those of the programs for other batch sizes. `program_error` is
    the largest difference between what the program and the model itself return, relative to the
    largest value; 0 for equal bits. `footprint` says what memory stages need, and
    `references_sha256` identifies the file of what the program for float32 returned on the
    controller; tables of earlier versions have neither. `images_sha256` identifies the file of the
    images that are sent; it is empty where inputs are drawn. `operators` are those of the program
    that do not come with torch, with their overloads, such as ``torchvision::nms.default``: a host
    needs the packages that register them. `exporter` names what wrote its stages for other
    runtimes, with versions and settings; it is empty where torch executes all of them.
    `tensors_sha256` identifies the file of tensors where that holds those of several dtypes; where
    it is empty, `weights_sha256` does.
    """

    model: str
    granularity: str
    batch: int
    dtype: str
    inputs: tuple[InputSpec, ...]
    cuts: tuple[Cut, ...]
    output: tuple[TensorSpec, ...]
    weights_sha256: str
    graph_sha256: str
    forward_ns: int
    program_error: float = 0.0
    footprint: Footprint | None = None
    references_sha256: str = ""
    images_sha256: str = ""
    operators: tuple[str, ...] = ()
    exporter: str = ""
    tensors_sha256: str = ""

    @property
    def held_sha256(self) -> str:
        """What identifies the file of the program's tensors."""
        return self.tensors_sha256 or self.weights_sha256

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the cuts, in the order in which the data reaches them."""
        return tuple(cut.name for cut in self.cuts)

    @property
    def order(self) -> tuple[str, ...]:
        """Names of the cuts with the endpoints: part n lies between names n and n + 1."""
        return (LAST, *self.names, FIRST)

    def crossing(self, name: str) -> tuple[TensorSpec, ...]:
        """Tensors that cross the cut `name`, endpoints included.

        Raises
        ------
        KeyError
            When the model has no cut of this name.
        """
        if name == FIRST:
            return ()
        if name == LAST:
            return tuple(TensorSpec(each.shape, each.dtype) for each in self.inputs)
        for cut in self.cuts:
            if cut.name == name:
                return cut.tensors
        raise KeyError(name)

    def parts(self, split: Sequence[str], rank: int) -> range:
        """Numbers of the parts, see :class:`Footprint`, that a rank's stage of a split consists of.

        Raises
        ------
        ValueError
            When the model has no cut of a name.
        """
        ends = (LAST, *split, FIRST)
        return range(self.order.index(ends[rank]), self.order.index(ends[rank + 1]))


def payload_bytes(tensors: Iterable[TensorSpec]) -> int:
    """Bytes of tensor data in one message of these tensors, the most where they vary."""
    return sum(tensor.nbytes for tensor in tensors)


def message_sizes(tensors: Sequence[TensorSpec]) -> range:
    """Bytes of tensor data that a message of these tensors may have; one size unless it varies.

    Raises
    ------
    ValueError
        Where something that varies is not all that the message has.
    """
    most = payload_bytes(tensors)
    if not any(isinstance(each, Varying) for each in tensors):
        return range(most, most + 1)
    if len(tensors) > 1:
        raise ValueError("bytes whose number varies must be all that a message has")
    return range(1, most + 1)

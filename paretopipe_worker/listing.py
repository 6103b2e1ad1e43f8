"""What the command ``cuts`` lists: where a model can be cut, what crosses, what each side costs."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

from paretopipe_worker.cuts import FIRST, LAST, InputSpec, payload_bytes
from paretopipe_worker.model import costs, trial, zoo
from paretopipe_worker.model.inputs import example_inputs
from paretopipe_worker.model.partition import Partitioned
from paretopipe_worker.model.sources import Source, default_inputs

_FIGURES = (
    ("held MB", "held_bytes", 1e6, ".1f"),
    ("GFLOP", "flops", 1e9, ".3f"),
    ("peak MB", "peak_bytes", 1e6, ".2f"),
)
"""Figures of each side: title, name, unit and form."""


def specs(source: Source, batch: int, inputs: Sequence[InputSpec] = ()) -> list[InputSpec]:
    """What goes into a model, batch first.

    Parameters
    ----------
    inputs
        Each of its inputs without the batch; by default the model's own.
    """
    asked = inputs or default_inputs(source)
    return [replace(each, shape=(batch, *each.shape)) for each in asked]


def cuts(
    source: Source, taken: Sequence[InputSpec], granularity: str, max_tensors: int = 1
) -> dict[str, Any]:
    """Capture a model and list its cuts.

    Parameters
    ----------
    taken
        What goes into the model, batch first.
    max_tensors
        Most tensors that cross a cut at granularity ``op``.

    Returns
    -------
    A document of plain values: ``model``, ``granularity``, ``batch``, ``dtype``, ``inputs``,
    ``output``, ``program_error``, and ``cuts`` in the order of the data, endpoints included, each
    with its ``name``, ``tensors``, ``payload_bytes`` and ``sides``
    (:class:`paretopipe_worker.model.costs.Side`, the stage before and that behind).

    Raises
    ------
    ModelError, PartitionError
        When the model cannot be built or captured.
    """
    model = zoo.build(source, seed=0, inputs=taken)
    table, captured = trial.cut_table(
        model, source.name, granularity, taken, max_tensors=max_tensors
    )
    partitioned = Partitioned(captured.program, captured.tensors)
    sides = costs.sides(partitioned, example_inputs(taken, seed=0, index=0))
    return {
        "model": table.model,
        "granularity": table.granularity,
        "batch": table.batch,
        "dtype": table.dtype,
        "inputs": [asdict(each) for each in table.inputs],
        "output": [asdict(tensor) for tensor in table.output],
        "program_error": table.program_error,
        "cuts": [
            {
                "name": cut,
                "tensors": [asdict(tensor) for tensor in table.crossing(cut)],
                "payload_bytes": payload_bytes(table.crossing(cut)),
                "sides": [asdict(side) for side in sides[cut]],
            }
            for cut in (FIRST, *table.names, LAST)
        ],
    }


def text(document: dict[str, Any], width: int) -> str:
    """Write the list for people, in lines of at most `width` characters where the names allow it.

    Tensors are left out where there is no room for them.
    """
    heading, *lines = _rows(document)
    widths = [max(map(len, column)) for column in zip(heading, *lines, strict=True)][:-1]
    room = width - sum(widths) - 2 * len(widths)
    table = [_line(row, widths, room) for row in (heading, *lines)]
    about = (
        f"{document['model']} for {told(document['inputs'])}, cut at granularity "
        f"{document['granularity']}: bytes "
        f"that cross each cut, and for the stages before | behind it what their parameters and "
        f"buffers take, floating-point operations, and the most that activations take at once. "
        f"At {FIRST} the first device does everything, at {LAST} the last."
    )
    return "\n".join([textwrap.fill(about, width), "", *table])


def _rows(document: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """A heading, and the cells of each cut; the last cell has a shape in each line."""
    yield "cut", "bytes", *(title for title, *_ in _FIGURES), "tensors"
    for cut in document["cuts"]:
        figures = zip(*(_pairs(cut["sides"])), strict=True)
        yield (
            cut["name"],
            f"{cut['payload_bytes']:,}",
            *(" | ".join(pair) for pair in figures),
            "\n".join(map(shape, cut["tensors"])),
        )


def _pairs(sides: list[dict[str, int]]) -> Iterator[list[str]]:
    """Figures of each side."""
    for side in sides:
        yield [f"{side[name] / unit:{form}}" for _, name, unit, form in _FIGURES]


def _line(row: Sequence[str], widths: Sequence[int], room: int) -> str:
    """One line of the table: the name left, figures right, and tensors as the room allows."""
    *cells, tensors = row
    name, *figures = (
        cell.ljust(w) if n == 0 else cell.rjust(w)
        for n, (cell, w) in enumerate(zip(cells, widths, strict=True))
    )
    return "  ".join([name, *figures, _fitting(tensors.splitlines(), room)]).rstrip()


def _fitting(shapes: Sequence[str], room: int) -> str:
    """As many shapes as there is room for, and how many more there are."""
    for shown in range(len(shapes), -1, -1):
        more = [f"{len(shapes) - shown} more"] if shown < len(shapes) else []
        text = ", ".join([*shapes[:shown], *more])
        if not shown and shapes:
            text = f"{len(shapes)} tensors" if len(shapes) > 1 else "1 tensor"
        if len(text) <= room:
            return text
    return ""


def told(tensors: Sequence[dict[str, Any]]) -> str:
    """Shapes and dtypes of a document's tensors, as people write them."""
    return ", ".join(f"{shape(each)} {each['dtype']}" for each in tensors)


def shape(tensor: dict[str, Any]) -> str:
    """The shape of a document's tensor, as people write it; one value has no dimensions."""
    return "x".join(map(str, tensor["shape"])) or "one"

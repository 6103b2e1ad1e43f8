"""What the command ``cuts`` lists: where a model can be cut, what crosses, what each side costs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from paretopipe_worker.cuts import FIRST, LAST, InputSpec, payload_bytes
from paretopipe_worker.model import costs, trial, zoo
from paretopipe_worker.model.inputs import example_inputs
from paretopipe_worker.model.partition import Partitioned
from paretopipe_worker.model.sources import default_input

_SHOWN = 3
"""Tensors whose shapes are shown of a cut."""


def cuts(
    name: str,
    granularity: str,
    batch: int,
    shape: tuple[int, ...] | None = None,
    max_tensors: int = 1,
) -> dict[str, Any]:
    """Capture a model and list its cuts.

    Parameters
    ----------
    shape
        Shape of one input without the batch; by default the model's own.
    max_tensors
        Most tensors that cross a cut at granularity ``op``.

    Returns
    -------
    A document of plain values: ``model``, ``granularity``, ``batch``, ``dtype``, ``inputs``,
    ``output``, ``program_error``, and ``cuts`` in the order of the data, endpoints included, each
    with its ``name``, ``tensors``, ``payload_bytes`` and ``sides``
    (:class:`paretopipe_worker.model.costs.Side`; none at an endpoint).

    Raises
    ------
    ModelError, PartitionError
        When the model cannot be built or captured.
    """
    taken = [InputSpec((batch, *(shape or default_input(name))), "float32")]
    model = zoo.build(name, seed=0, inputs=taken)
    table, captured = trial.cut_table(model, name, granularity, taken, max_tensors=max_tensors)
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
                "sides": [asdict(side) for side in sides.get(cut, ())],
            }
            for cut in (FIRST, *table.names, LAST)
        ],
    }


def text(document: dict[str, Any]) -> str:
    """Write the list for people; figures in pairs are of the stages before and behind a cut."""
    return "\n".join(_lines(document))


def _lines(document: dict[str, Any]) -> Iterator[str]:
    """A heading, and a line for each cut."""
    width = max(len(cut["name"]) for cut in document["cuts"])
    titles = f"{'held MB':>15}  {'GFLOP':>15}  {'peak MB':>15}"
    yield f"{'cut':<{width}}  {'crossing bytes':>14}  {titles}  tensors"
    for cut in document["cuts"]:
        shapes = ["x".join(map(str, tensor["shape"])) for tensor in cut["tensors"]]
        if len(shapes) > _SHOWN:
            shapes[_SHOWN - 1 :] = [f"and {len(shapes) - _SHOWN + 1} more"]
        pairs = "  ".join(
            f"{_pair(cut['sides'], name, unit, form):>15}"
            for name, unit, form in (
                ("held_bytes", 1e6, ".1f"),
                ("flops", 1e9, ".3f"),
                ("peak_bytes", 1e6, ".2f"),
            )
        )
        yield (
            f"{cut['name']:<{width}}  {cut['payload_bytes']:>14,}  {pairs}  {', '.join(shapes)}"
        ).rstrip()


def _pair(sides: list[dict[str, int]], name: str, unit: float, form: str) -> str:
    """One figure of both sides."""
    return " | ".join(f"{side[name] / unit:{form}}" for side in sides)

"""What the command ``wire`` lists: what crosses each cut, packed in each wire format."""

from __future__ import annotations

import statistics
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from paretopipe_worker.cuts import LAST, CutTable, InputSpec, payload_bytes
from paretopipe_worker.listing import told
from paretopipe_worker.model import trial, zoo
from paretopipe_worker.model.inputs import example_inputs
from paretopipe_worker.model.partition import Partitioned, largest_error, split
from paretopipe_worker.model.sources import Source, origin
from paretopipe_worker.wire.api import WireError
from paretopipe_worker.wire.coding import bytes_of
from paretopipe_worker.wire.formats import FORMATS, packer

_REPEATS = 5
_HEADING = ("", "bytes", "ratio", "pack ms", "unpack ms", "error")
_Tensors = tuple[torch.Tensor, ...]


def packed(
    source: Source,
    taken: Sequence[InputSpec],
    granularity: str,
    max_tensors: int = 1,
    *,
    formats: Sequence[str] = (),
    checkpoint: Path | None = None,
    note: Callable[[str], object] = lambda text: None,
) -> dict[str, Any]:
    """Run a model once and pack what crosses each of its cuts.

    Parameters
    ----------
    source, taken, granularity, max_tensors
        As of :func:`paretopipe_worker.listing.cuts`.
    formats
        Names of wire formats; without any, all whose libraries are installed.
    checkpoint, note
        As of :func:`paretopipe_worker.model.zoo.build`; a line also says which format is left out.

    Returns
    -------
    A document of plain values: ``model``, ``granularity``, ``batch``, ``weights``, ``inputs``,
    ``threads``, ``repeats``, and ``cuts`` in the order of the data, from ``@last``, at which the
    input crosses. Each has its ``name``, ``tensors``, ``payload_bytes`` and ``formats``: for each
    a ``format``, its ``bytes``, ``ratio`` to those of the tensors, ``pack_ns`` and ``unpack_ns``
    (medians on one thread), ``error`` (see :func:`relative_error`), and ``refused``: why it cannot
    pack the values, where all figures are null.

    Raises
    ------
    ModelError, PartitionError, WireError
        When the model cannot be built or captured, or a format is not there.
    """
    formats = _available(formats, note)
    model = zoo.build(source, seed=0, inputs=taken, weights=checkpoint, note=note)
    table, captured = trial.cut_table(
        model, source.name, granularity, taken, max_tensors=max_tensors
    )
    partitioned = Partitioned(captured.program, captured.tensors)
    with _one_thread(), torch.inference_mode():
        found = crossings(partitioned, table)
        cuts = [_cut(table, cut, tensors, formats) for cut, tensors in found]
        threads = torch.get_num_threads()
    return {
        "model": table.model,
        "granularity": table.granularity,
        "batch": table.batch,
        "weights": _weights(source, checkpoint),
        "inputs": [asdict(each) for each in table.inputs],
        "threads": threads,
        "repeats": _REPEATS,
        "cuts": cuts,
    }


def _available(asked: Sequence[str], note: Callable[[str], object]) -> list[str]:
    """Find out which formats there are, before anything takes time."""
    found = []
    for name in asked or FORMATS:
        try:
            packer(name, ())
        except WireError as error:
            if asked:
                raise
            note(str(error))
        else:
            found.append(name)
    return found


def _weights(source: Source, checkpoint: Path | None) -> str:
    """Which weights the activations come from."""
    if checkpoint:
        return checkpoint.name
    return "drawn at random" if origin(source).drawn and not source.weights else "the model's own"


def crossings(model: Partitioned, table: CutTable) -> Iterator[tuple[str, _Tensors]]:
    """Run a model once, without gradients: what crosses each cut, in the order of the data.

    The first cut is ``@last``, at which the input crosses. Each stage takes what the one before it
    gave, so what two cuts share is the same memory: use it before the next.
    """
    tensors = example_inputs(table.inputs, seed=0, index=0)
    yield LAST, tensors
    stages = split(model, table.names)
    for cut, stage in zip(table.names, stages[:-1], strict=True):
        if stage:
            tensors = stage(*tensors)
        yield cut, tensors


def _cut(table: CutTable, name: str, tensors: _Tensors, formats: Sequence[str]) -> dict[str, Any]:
    specs = table.crossing(name)
    return {
        "name": name,
        "tensors": [asdict(spec) for spec in specs],
        "payload_bytes": payload_bytes(specs),
        "formats": [_format(each, table, name, tensors) for each in formats],
    }


def _format(name: str, table: CutTable, cut: str, tensors: _Tensors) -> dict[str, Any]:
    """Pack and unpack, once to see the result and a few times to time it."""
    specs = table.crossing(cut)
    made = packer(name, specs)
    try:
        message = made.pack(tensors)
    except WireError as refused:
        figures = dict.fromkeys(("bytes", "ratio", "pack_ns", "unpack_ns", "error"))
        return {"format": name, **figures, "refused": str(refused)}
    error = relative_error(made.unpack(message), tensors)
    size = memoryview(message).nbytes
    return {
        "format": name,
        "bytes": size,
        "ratio": size / payload_bytes(specs) if payload_bytes(specs) else None,
        "pack_ns": _median_ns(lambda: made.pack(tensors)),
        "unpack_ns": _median_ns(lambda: made.unpack(message)),
        "error": error,
        "refused": None,
    }


def relative_error(found: Sequence[torch.Tensor], sent: Sequence[torch.Tensor]) -> float | None:
    """Largest error of a value, relative to the largest value of its tensor.

    It is 0 where all are equal, and None where values that are not finite make it no number.
    """
    changed = [
        (there, here)
        for there, here in zip(found, sent, strict=True)
        if not torch.equal(bytes_of(there), bytes_of(here))
    ]
    if not all(here.isfinite().all() for _, here in changed):
        return None
    return max((largest_error((there,), (here,)) for there, here in changed), default=0.0)


def _median_ns(call: Callable[[], object]) -> int:
    """Median time of a few calls."""
    taken = []
    for _ in range(_REPEATS):
        start = time.perf_counter_ns()
        call()
        taken.append(time.perf_counter_ns() - start)
    return round(statistics.median(taken))


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def text(document: dict[str, Any], width: int) -> str:
    """Write the list for people: below each cut a line for each format."""
    about = (
        f"{document['model']} for {told(document['inputs'])}, cut at granularity "
        f"{document['granularity']}, weights "
        f"{document['weights']}: what crosses each cut for one input, in each wire format. Ratios "
        f"are to the bytes of the tensors; times are medians of {document['repeats']} on one "
        f"thread; errors are the largest of a value, relative to the largest of its tensor."
    )
    rows = {cut["name"]: [_row(each) for each in cut["formats"]] for cut in document["cuts"]}
    every = [_HEADING, *(row for rows_of in rows.values() for row in rows_of if len(row) > 2)]
    widths = [max(map(len, column)) for column in zip(*every, strict=True)]
    lines = [_line(_HEADING, widths)]
    for cut in document["cuts"]:
        heading = f"{cut['name']}: {told(cut['tensors'])}"
        lines += [textwrap.shorten(heading, width, placeholder=" ...")]
        for row in rows[cut["name"]]:
            lines += textwrap.wrap(_line(row, widths), width, subsequent_indent=" " * 8)
    return "\n".join([textwrap.fill(about, width), "", *lines])


def _row(found: dict[str, Any]) -> tuple[str, ...]:
    """The cells of a format, or its name and why it was refused."""
    name = f"  {found['format']}"
    if found["refused"]:
        return name, found["refused"]
    return (
        name,
        f"{found['bytes']:,}",
        "-" if found["ratio"] is None else f"{found['ratio']:.3f}",
        *(f"{found[time] / 1e6:.3f}" for time in ("pack_ns", "unpack_ns")),
        "-" if found["error"] is None else f"{found['error']:.1e}" if found["error"] else "0",
    )


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    """One line of the table: the format left, figures right."""
    name, *cells = row
    if len(row) == 2:
        return f"{name.ljust(widths[0])}  {cells[0]}"
    figures = (cell.rjust(w) for cell, w in zip(cells, widths[1:], strict=True))
    return "  ".join([name.ljust(widths[0]), *figures])

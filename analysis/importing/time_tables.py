"""Text tables of times: a line ``total edge cloud cut`` for each cut, in seconds.

Repository qub-blesson/AdaptiveDNN has such files (McNamee et al., "A Case For Adaptive Deep Neural
Networks in Edge Computing", 2021): one for each network and load of its hosts, in a folder for each
model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import Field, TypeAdapter, ValidationError

from analysis.column import Column
from analysis.importing.kinds import ImportingError, Kind, Row, content, faults_of

_Seconds = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]


class _Line(NamedTuple):
    total: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
    edge: _Seconds
    cloud: _Seconds
    cut: Annotated[int, Field(ge=0, le=1_000_000)]


_LINE: TypeAdapter[_Line] = TypeAdapter(_Line)


def _rows(file: Path, told: Path) -> list[Row]:
    """A row for each line that has words; what follows a ``#`` is a remark."""
    rows: list[Row] = []
    faults: list[str] = []
    for number, line in enumerate(content(file).splitlines(), start=1):
        words = line.partition("#")[0].split()
        where = f"{file}:{number}"
        if not words:
            continue
        if len(words) != 4:
            faults.append(f"{where}: must be 4 numbers, total edge cloud cut; got {len(words)}")
            continue
        try:
            read = _LINE.validate_python(dict(zip(_Line._fields, words, strict=True)))
        except ValidationError as error:
            faults += faults_of(error, where)
            continue
        if read.total < read.edge + read.cloud:
            faults.append(f"{where}: total: must be at least edge and cloud; got {read.total:g}")
        rows.append(
            {
                "file": str(told),
                "model": told.parent.name or file.resolve().parent.name,
                "condition": str(told.parent.parent / told.stem),
                "split": str(read.cut),
                "position": read.cut,
                "total_ms": 1e3 * read.total,
                "edge_ms": 1e3 * read.edge,
                "cloud_ms": 1e3 * read.cloud,
            }
        )
    if not rows and not faults:
        faults.append(f"{file}: holds no line")
    if faults:
        raise ImportingError("\n".join(faults))
    return rows


KIND = Kind(
    said="tables of total, edge and cloud times",
    warnings=(
        "a total is what its tool measured around one request, with whatever else that tool does; "
        "no throughput was measured",
    ),
    pattern="*.txt",
    columns=(
        Column("total_ms", "ms", "Time of a request, as its tool measured it."),
        Column("edge_ms", "ms", "The part of it in which the edge device computed."),
        Column("cloud_ms", "ms", "The part of it in which the server computed."),
    ),
    objectives={"total_ms": "min", "edge_ms": "min"},
    nouns={"total_ms": "total time", "edge_ms": "time on the edge device"},
    rows=_rows,
)

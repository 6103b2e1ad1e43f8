"""Record files: written line by line and never rewritten, read with every line checked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Annotated, get_args

import orjson
from pydantic import Field, TypeAdapter, ValidationError

from paretopipe_worker import bounded
from paretopipe_worker.records.lines import Header, Readable, Record

_LINE: TypeAdapter[Record] = TypeAdapter(Annotated[Record, Field(discriminator="kind")])
# The adapter's own method goes through a further call, once a line.
_validate = _LINE.validator.validate_json
_KINDS = ", ".join(kind.kind for kind in get_args(Record))
_READABLE = ", ".join(map(str, get_args(Readable)))
_MOST_LINE_BYTES = 64 * bounded.MEGABYTE


class RecordError(ValueError):
    """A record file cannot be used: the text names the file and the line, and says why."""


class DamagedRecord(RecordError):
    """A line is no record: the file does not hold what was written to it."""


class Writer:
    """Append records to one new file and flush each.

    Raises
    ------
    FileExistsError
        When the file exists: records are never rewritten.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = path.open("xb")

    def write(self, record: Record) -> None:
        """Append one line."""
        self._file.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
        self._file.flush()

    def close(self) -> None:
        """Close the file; without an `End` before, it counts as cut short."""
        self._file.close()

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def read_records(path: Path) -> Iterator[Record]:
    """Yield the checked records of one file.

    The records of a file that was cut short end early, without an `End`. An unfinished last line is
    skipped: a stage that is killed, or a host that loses power, leaves one.

    Raises
    ------
    DamagedRecord
        When a line is no record, the first line is no header, or a later one is; the text names
        file and line.
    RecordError
        When the records are of another schema.
    """
    number = 0
    try:
        for number, line in enumerate(bounded.lines(path, _MOST_LINE_BYTES), start=1):
            if not line.endswith(b"\n"):
                return
            try:
                record: Record = _validate(line)
            except ValidationError as error:
                raise _refusal(error, f"{path}:{number}") from error
            if (number == 1) != isinstance(record, Header):
                raise DamagedRecord(f"{path}:{number}: the header must be the first line, and once")
            yield record
    except bounded.UnreadableFile as error:
        raise DamagedRecord(f"{path}:{number + 1}: {error}") from error


def _refusal(error: ValidationError, where: str) -> RecordError:
    """What is wrong with a line that is no record; the text begins with `where`."""
    faults = error.errors(include_url=False)
    # A header of another schema may differ in any field: the schema is the fault to name.
    for fault in faults:
        if fault["loc"] == ("header", "schema"):
            found = None if fault["type"] == "missing" else fault["input"]
            return RecordError(f"{where}: has schema {found}, this version reads {_READABLE}")
    first = faults[0]
    if not first["loc"]:
        return DamagedRecord(f"{where}: is not a record ({first['msg']}); kinds are {_KINDS}")
    field = ".".join(map(str, first["loc"]))
    return DamagedRecord(f"{where}: {field}: {first['msg']}")


def file_name(session: str, attempt: int) -> str:
    """Name of the file of one host and session under ``records/<host>/``."""
    return f"{session}.{attempt}.jsonl"

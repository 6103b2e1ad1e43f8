"""Record files: flushed line by line, never rewritten, checked line by line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from paretopipe_worker.records.files import (
    DamagedRecord,
    RecordError,
    Writer,
    file_name,
    read_records,
)
from paretopipe_worker.records.lines import End, Header, Item
from paretopipe_worker.records.probes import Datagrams, Probe, Transfer
from paretopipe_worker.records.profiles import Profile
from tests.helpers.records import HEADER

ITEM = Item("p", "latency", 0, 1, 2, 3, 1, 1, 4, 5, 4)
PROBE = Probe(
    0,
    (1, 2),
    (3.5, 4.0),
    (Transfer(0, 8192, (5, 6, 7)),),
    Datagrams(2_000_000, (600, 590), (590, 580), (9,) * 580),
)
END = End("ok", None, 0, 9, {"gate": 1})


def probe(**changes: object) -> str:
    """A probe's line, its transfer changed."""
    transfer = vars(PROBE.transfers[0]) | changes
    return json.dumps(vars(PROBE) | {"transfers": [transfer], "datagrams": None})


def profile(**changes: object) -> str:
    """The line of a profile of two units, changed."""
    whole = Profile(1, "float32", "eager", ("@last", "a", "@first"), "waiting", 9, ((1, 2),))
    return json.dumps(vars(whole) | changes)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with one record of four kinds."""
    file = tmp_path / "edge" / file_name("s", 1)
    with Writer(file) as writer:
        for record in (HEADER, ITEM, PROBE, END):
            writer.write(record)
    return file


def test_what_is_written_is_read(path: Path) -> None:
    assert list(read_records(path)) == [HEADER, ITEM, PROBE, END]


def test_a_line_is_there_as_soon_as_it_is_written(tmp_path: Path) -> None:
    with Writer(tmp_path / "r.jsonl") as writer:
        writer.write(HEADER)
        writer.write(ITEM)
        assert list(read_records(writer.path)) == [HEADER, ITEM]


def test_a_file_is_never_written_twice(path: Path) -> None:
    with pytest.raises(FileExistsError):
        Writer(path)


def test_half_a_line_at_the_end_is_passed_over(path: Path) -> None:
    path.write_text(path.read_text()[:-20])
    assert list(read_records(path)) == [HEADER, ITEM, PROBE]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("}", "is not a record .*; kinds are header"),
        ('{"kind":"other"}', "is not a record"),
        ("[1]", "is not a record"),
        (json.dumps({**vars(ITEM), "latency_ns": "fast"}), "item.latency_ns"),
        (json.dumps({**vars(ITEM), "speed": 1}), "item.speed"),
        (json.dumps({**vars(ITEM), "phase": "cooldown"}), "item.phase"),
        (probe(hop="first"), "probe.transfers.0.hop"),
        (probe(why="slow"), "probe.transfers.0.why"),
        (
            json.dumps(vars(ITEM)).replace("latency", "latenc\xff"),
            "is not .*invalid unicode",
        ),
        (profile(unit_ns=((1,),)), "unit_ns must have 2 times of at least 0 for each item"),
        (profile(unit_ns=((1, -1),)), "unit_ns must have 2 times of at least 0"),
        (profile(places=()), "places must have the name of at least one"),
        (profile(pauses=(1, 1)), "pauses must be empty, or have one for each item"),
        (profile(pauses=(2,)), "pauses must be numbers of units from 1 to 1"),
        ("\0" * 4096, "is not a record"),
        ("[" * 100_000, "is not a record"),
        (json.dumps(vars(HEADER)), "header must be the first line, and once"),
    ],
    ids=range(17),
)
def test_a_damaged_line_is_refused_by_file_and_line(path: Path, line: str, reason: str) -> None:
    lines = path.read_bytes().splitlines()
    damaged = line.encode("latin-1")
    path.write_bytes(b"\n".join([lines[0], damaged, *lines[1:]]) + b"\n")
    with pytest.raises(DamagedRecord, match=reason) as refused:
        list(read_records(path))
    assert str(refused.value).startswith(f"{path}:2: ")


def test_zeros_at_the_end_as_a_power_failure_leaves_are_passed_over(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20] + b"\0" * 4096)
    assert list(read_records(path)) == [HEADER, ITEM, PROBE]


def test_a_file_without_header_is_refused(path: Path) -> None:
    path.write_text("\n".join(path.read_text().splitlines()[1:]) + "\n")
    with pytest.raises(RecordError, match="header must be the first line"):
        list(read_records(path))


def test_another_schema_is_refused(path: Path) -> None:
    path.write_text(path.read_text().replace('"schema":5', '"schema":1'))
    with pytest.raises(RecordError, match="has schema 1, this version reads 4, 5"):
        list(read_records(path))


def test_the_schema_of_before_is_read(path: Path) -> None:
    path.write_text(path.read_text().replace('"schema":5', '"schema":4'))
    header, *_ = read_records(path)
    assert isinstance(header, Header) and header.schema == 4


def test_another_schema_is_told_before_the_fields_it_has(path: Path) -> None:
    header = vars(HEADER) | {"speed": 1, "rank": "first"}
    del header["schema"], header["torch"]
    for schema, said in (({"schema": 6}, "6"), ({}, "None")):
        path.write_text(json.dumps(header | schema) + "\n")
        with pytest.raises(RecordError, match=rf"^{path}:1: has schema {said}, this") as refused:
            list(read_records(path))
        assert not isinstance(refused.value, DamagedRecord)

"""Lists that grow with points or hosts travel in files or by stdin: an argument ends at 128 KiB."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from paretopipe_worker.__main__ import main
from paretopipe_worker.plan import plan as plans
from paretopipe_worker.records.files import read_records
from paretopipe_worker.records.lines import End, Header
from tests.helpers import fake_plan

LONGEST = 128 << 10


def test_a_failed_session_of_many_points_is_recorded_with_all_its_reasons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = range(1, 4)
    tables = [fake_plan.mobilenet_table(batch) for batch in batches]
    wires = ["fp32", "fp16", "bf16", "int8", "int4", "zstd", "lz4"]
    made = fake_plan.make(*tables, batch=[*batches], window=[*range(1, 26)], wire=wires,
                          strategy="all")  # fmt: skip
    (tmp_path / "plan.json").write_text(plans.dump(made))
    [session] = made.sessions
    points = tmp_path / "points"
    points.write_text("\n".join(session.points))
    assert points.stat().st_size > LONGEST
    reason = "server: lost; " * 10_000
    monkeypatch.setattr("sys.stdin", io.StringIO(reason))
    where = (f"--results={tmp_path}", f"--session={session.id}", "--attempt=1")
    assert main(["record-failure", *where, f"--points-from={points}", "--reason=-"]) == 0
    [path] = tmp_path.glob("records/controller/*.jsonl")
    first, *_, last = read_records(path)
    assert isinstance(first, Header) and first.points == session.points
    assert isinstance(last, End) and last.reason == reason


def test_what_is_known_of_many_hosts_is_read_from_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "plan.json").write_text(plans.dump(fake_plan.make(fake_plan.tiny_table())))
    hosts = [f"host{number:04}" for number in range(4000)]
    known = tmp_path / "known.json"
    known.write_text(json.dumps({"torch": dict.fromkeys(hosts, "2.13.0"),
                                 "memory": dict.fromkeys(hosts), "abilities": {}}))  # fmt: skip
    assert known.stat().st_size > LONGEST
    command = ["todo", f"--results={tmp_path}", f"--known={known}"]
    assert main([*command, "--side-by-side"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["turns"] == {"pi": [0], "server": [0]}
    known.write_text('{"memory": {"pi": "much"}}')
    assert main(command) == 2
    assert capsys.readouterr().err.startswith("what is known of the hosts: memory.pi: ")

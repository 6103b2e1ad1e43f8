"""Records are fetched whole or not at all, and what a host offers never fills the controller."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import ROOT
from tests.helpers.role_code import module

pytestmark = pytest.mark.slow

FETCH = module(ROOT / "roles/session/action_plugins/session_fetch.py")
TERABYTE = 1 << 40


def fetched(folder: Path, *names: str, first_on_path: Path | None = None) -> dict[str, Any]:
    """Fetch files of a folder ``there`` to a folder ``here``; what became of each, by name."""
    play = {
        "hosts": "localhost",
        "gather_facts": False,
        "tasks": [
            {
                "session_fetch": {
                    "src": f"{folder}/there/{{{{ item }}}}",
                    "dest": f"{folder}/here/{{{{ item }}}}",
                },
                "loop": list(names),
                "register": "done",
                "failed_when": False,
            },
            {
                "copy": {
                    "content": "{{ done.results | to_json }}",
                    "dest": f"{folder}/results.json",
                    "mode": "0644",
                }
            },
        ],
    }
    (folder / "play.yml").write_text(yaml.safe_dump([play]), encoding="utf-8")
    programs = [first_on_path] if first_on_path else []
    path = os.pathsep.join(map(str, [*programs, Path(sys.executable).parent, os.environ["PATH"]]))
    done = subprocess.run(
        ["ansible-playbook", "-i", "localhost,", "-c", "local", str(folder / "play.yml")],
        cwd=ROOT,
        env=os.environ | {"PATH": path, "ANSIBLE_PYTHON_INTERPRETER": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return {result["item"]: result for result in results}


def test_a_file_comes_whole_and_one_without_an_end_does_not_come(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    (there / "right.jsonl").write_text("a line\n", encoding="utf-8")
    with (there / "endless.jsonl").open("wb") as file:
        file.truncate(TERABYTE)
    os.mkfifo(there / "pipe.jsonl")
    (there / "device.jsonl").symlink_to("/dev/zero")
    names = ["right.jsonl", "endless.jsonl", "pipe.jsonl", "device.jsonl", "none.jsonl"]
    found = fetched(tmp_path, *names)
    here = tmp_path / "here"
    assert [path.name for path in here.iterdir()] == ["right.jsonl"]
    assert (here / "right.jsonl").read_text(encoding="utf-8") == "a line\n"
    said = found["endless.jsonl"]["msg"]
    assert f"{there}/endless.jsonl was not fetched: has {TERABYTE} bytes; at most " in said
    assert [found[name]["changed"] for name in names if "msg" not in found[name]] == [
        *(True, False, False, False)
    ]


def test_a_host_that_says_less_than_it_sends_is_cut_off(tmp_path: Path) -> None:
    """Its ``stat`` lies."""
    liar = tmp_path / "programs" / "stat"
    liar.parent.mkdir()
    liar.write_text("#!/bin/sh\necho 5\n", encoding="utf-8")
    liar.chmod(0o755)
    (tmp_path / "there").mkdir()
    with (tmp_path / "there/much.jsonl").open("wb") as file:
        file.truncate(FETCH.MAY_GROW_BYTES + 6)
    found = fetched(tmp_path, "much.jsonl", first_on_path=liar.parent)
    assert "much.jsonl was not fetched: " in found["much.jsonl"]["msg"]
    assert list((tmp_path / "here").iterdir()) == []

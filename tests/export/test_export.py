"""The command ``export``: what it writes and says, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

from paretopipe_worker import export
from paretopipe_worker.__main__ import main
from paretopipe_worker.model import standalone, zoo
from paretopipe_worker.model.weights import save_weights, tensor_sha256, weights_sha256
from tests import ROOT

SIZED = "tests.helpers.models:Sized"
"""A small user's model with BatchNorm and tied layers."""


def ran(folder: Path, model: str, *options: str) -> int:
    """Run the command; its exit status."""
    return main(["export", model, "-o", str(folder), *options])


def document(folder: Path) -> dict[str, Any]:
    """What ``stages.json`` says."""
    return json.loads((folder / "stages.json").read_text())


def test_files_are_named_with_their_checksums_and_those_of_the_tensors_in_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    assert ran(folder, SIZED, "--cut", "third", "--batch", "3") == 0
    said = capsys.readouterr().out
    assert f"Wrote {folder}." in said
    assert "The .pt2 files return the same bits as the stages of a sweep." in said
    stages = document(folder)["stages"]
    names = {f"stage-{n}.{suffix}" for n in (0, 1) for suffix in ("pt2", "onnx")}
    assert {each.name for each in folder.iterdir()} == names | {"README.md", "stages.json"}
    for name, told in (item for stage in stages for item in stage["files"].items()):
        held = (folder / name).read_bytes()
        assert told == {"bytes": len(held), "sha256": hashlib.sha256(held).hexdigest()}
    assert stages[0]["inputs"] == [{"name": "input_0", "shape": [3, 2, 9, 9], "dtype": "float32"}]
    assert [each["shape"] for each in stages[1]["outputs"]] == [[3, 3]]
    assert stages[1]["inputs"][0]["shape"] == stages[0]["outputs"][0]["shape"]
    for number in (0, 1):
        loaded = torch.export.load(folder / f"stage-{number}.pt2").state_dict
        checksums = {name: tensor_sha256(tensor, name) for name, tensor in loaded.items()}
        assert stages[number]["tensors_sha256"] == weights_sha256(checksums)
        assert {name.partition(".")[0] for name in loaded} == (
            {"head"} if number else {"first", "norm", "second", "third"}
        )


def test_weights_come_from_a_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "trained.safetensors"
    trained = zoo.build(SIZED, seed=7).state_dict()
    save_weights(trained, file)
    assert ran(tmp_path / "out", SIZED, "--cut", "third", "--weights", str(file)) == 0
    assert document(tmp_path / "out")["weights"] == "trained.safetensors"
    loaded = torch.export.load(tmp_path / "out" / "stage-1.pt2").state_dict
    assert torch.equal(loaded["head.weight"], trained["head.weight"])


def test_a_stage_without_operations_is_said_and_has_no_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ran(tmp_path / "out", SIZED, "--cut", "@last", "--cut", "third") == 0
    assert "Stage 0 has no operations and no files" in capsys.readouterr().out
    assert [stage["empty"] for stage in document(tmp_path / "out")["stages"]] == [
        True,
        False,
        False,
    ]
    assert not list((tmp_path / "out").glob("stage-0*"))


def test_an_operator_that_onnx_lacks_is_named_and_the_pt2_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    assert ran(folder, "tests.helpers.synthetic:wait_5_ms", "--cut", "2") == 1
    line, *_ = capsys.readouterr().err.splitlines()
    assert line == (
        "Stage 0 has no ONNX file: ONNX has nothing for the operator paretopipe_test::wait.default."
    )
    assert {each.name for each in folder.glob("stage-*")} == {"stage-0.pt2", "stage-1.pt2"}
    assert "import torch, paretopipe_test\n" in (folder / "README.md").read_text()


def test_onnx_files_that_return_something_else_are_taken_away(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "ONNX_ERROR", 0.0)
    assert ran(tmp_path / "out", SIZED, "--cut", "third") == 1
    assert "of its largest value (allowed: 0)" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*.onnx*"))
    assert document(tmp_path / "out")["compared"]["onnx_to_model"] > 0


def test_large_tensors_lie_beside_an_onnx_file_which_runs_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standalone, "_INSIDE_BYTES", 0)
    assert ran(tmp_path / "out", SIZED, "--cut", "third") == 0
    told = document(tmp_path / "out")
    files = [list(stage["files"]) for stage in told["stages"]]
    assert files == [[f"stage-{n}.{end}" for end in ("pt2", "onnx", "onnx.data")] for n in (0, 1)]
    assert 0 <= told["compared"]["onnx_to_model"] <= export.ONNX_ERROR


@pytest.mark.long
def test_the_commands_of_the_page_on_models_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / "models.md").read_text(), re.DOTALL)
    commands = [shlex.split(line) for block in blocks for line in block.splitlines()]
    assert {words[3] for words in commands} == {"cuts", "wire", "export"}
    for words in commands:
        assert words[:3] == [".venv/bin/python", "-m", "paretopipe_worker"]
        assert main(words[3:]) == 0, words
        assert capsys.readouterr().out


def test_pt2_files_that_return_something_else_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "MOST_ERROR", -1.0)
    assert ran(tmp_path / "out", SIZED, "--cut", "third") == 2
    assert "the .pt2 files return what differs from what" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("cuts", "said"),
    [
        (["tihrd"], "no cut 'tihrd' (close: third"),
        (["third", "first"], "cuts 'third' and 'first' are not in the order of the data"),
    ],
)
def test_cuts_that_cannot_be_made_are_refused_and_nothing_is_left(
    cuts: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [word for name in cuts for word in ("--cut", name)]
    assert ran(tmp_path / "out", SIZED, *options) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1, error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("folder", "said"),
    [
        (".", "is not empty; allowed is a folder that is empty or not there yet"),
        ("file", "is not empty; allowed is"),
        ("file/under", "cannot be written (Not a directory); allowed is"),
    ],
)
def test_a_folder_that_cannot_be_written_is_refused_before_the_model_is_built(
    folder: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("kept")
    assert ran(tmp_path / folder, "no_such_model", "--cut", "x", "--input", "3,8,8") == 2
    error = capsys.readouterr().err
    assert f"{tmp_path / folder}: {said}" in error and error.count("\n") == 1, error
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "kept"


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    assert ran(tmp_path, SIZED, "--cut", "@first") == 0
    assert (tmp_path / "stage-0.onnx").exists()

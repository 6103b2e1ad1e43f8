"""The command ``wire`` as people call it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from paretopipe_worker.__main__ import main
from paretopipe_worker.model.tiny import network
from paretopipe_worker.wire.formats import FORMATS
from paretopipe_worker.wire_listing import relative_error
from tests import ROOT

OWN = str(ROOT / "experiments" / "models")
UNET = ("own:UNet", "--path", OWN, "--arguments", '{"width": 4}', "--input", "3,32,32")
TINY = "paretopipe_worker.model.tiny:network"


def wire(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """What the command prints."""
    assert main(["wire", *options]) == 0
    return capsys.readouterr().out


def test_every_cut_has_figures_of_every_format(capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(wire(capsys, *UNET, "--batch", "2", "--json"))
    main(["cuts", *UNET, "--batch", "2", "--json"])
    listed = {cut["name"]: cut for cut in json.loads(capsys.readouterr().out)["cuts"]}
    assert {cut["name"] for cut in document["cuts"]} == listed.keys() - {"@first"}
    for cut in document["cuts"]:
        assert cut["tensors"] == listed[cut["name"]]["tensors"]
        assert [each["format"] for each in cut["formats"]] == list(FORMATS)
        for each in cut["formats"]:
            assert each["refused"] is None
            assert each["ratio"] == each["bytes"] / cut["payload_bytes"]
            assert min(each["pack_ns"], each["unpack_ns"]) > 0
        fp32, fp16, _, int8, int4, zstd, lz4 = cut["formats"]
        assert fp32["bytes"] == cut["payload_bytes"] == 2 * fp16["bytes"]
        assert int4["bytes"] < int8["bytes"] < fp16["bytes"]
        assert {each["error"] for each in (fp32, zstd, lz4)} == {0.0}
        # At most half a step, and a step is at most twice the largest value over all steps.
        assert 0 < int8["error"] <= 1.001 / 255 < int4["error"] <= 1.001 / 15
    assert document["weights"] == "drawn at random"


@pytest.mark.parametrize("width", [80, 120])
def test_the_list_fits_the_terminal(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    about, _, table = wire(capsys, *UNET).partition("\n\n")
    assert max(map(len, about.splitlines() + table.splitlines())) <= width
    lines = table.splitlines()
    at = lines.index("down.1: 1x4x32x32 float32, 1x8x16x16 float32")
    shown = [line.split()[:3] for line in lines[at + 1 : at + 6]]
    assert shown[1] == ["fp16", f"{2 * (4096 + 2048):,}", "0.500"]
    assert [name for name, *_ in shown] == list(FORMATS)[:5]


def test_a_format_that_cannot_hold_the_values_says_why(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    checkpoint = str(tmp_path / "large.pt")
    state = network().state_dict()
    state["0.weight"] = state["0.weight"] * 1e9
    torch.save(state, checkpoint)
    asked = (TINY, "--weights", checkpoint, "--format", "fp16", "--format", "int8")
    document = json.loads(wire(capsys, *asked, "--json"))
    fp16, int8 = next(cut for cut in document["cuts"] if cut["name"] == "0")["formats"]
    assert document["weights"] == "large.pt"
    assert "cannot be packed as torch.float16" in fp16["refused"]
    assert {fp16[name] for name in ("bytes", "ratio", "pack_ns", "unpack_ns", "error")} == {None}
    assert int8["refused"] is None
    assert "fp16  tensor 0 of the message: float32 values up to" in wire(capsys, *asked)


def test_a_library_that_is_missing_leaves_its_format_out_unless_it_was_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    assert main(["wire", TINY, "--json"]) == 0
    done = capsys.readouterr()
    (cut, *_) = json.loads(done.out)["cuts"]
    assert [each["format"] for each in cut["formats"]] == [f for f in FORMATS if f != "zstd"]
    (line,) = done.err.splitlines()
    assert "'zstd' needs the package zstandard" in line
    assert main(["wire", TINY, "--format", "zstd"]) == 2
    assert capsys.readouterr().err.splitlines() == [line]


def test_one_thread_is_timed_and_the_others_come_back(capsys: pytest.CaptureFixture[str]) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert json.loads(wire(capsys, TINY, "--format", "fp32", "--json"))["threads"] == 1
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_errors_are_relative_to_the_largest_value_of_each_tensor() -> None:
    large, small = torch.tensor([100.0, 50.0]), torch.tensor([1.0, 0.5])
    assert relative_error((large, small + 0.25), (large, small)) == 0.25
    assert relative_error((large + 25, small), (large, small)) == 0.25
    assert relative_error((large, small), (large, small)) == 0.0
    endless = torch.tensor([1.0, float("inf")])
    assert relative_error((endless,), (endless,)) == 0.0
    assert relative_error((endless + 1,), (endless,)) is None

"""The worker's commands as people call them: what they are told, and what reads their output."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from paretopipe_worker import listing
from paretopipe_worker.__main__ import main
from tests import ROOT

OWN = str(ROOT / "experiments" / "models")
UNET = ("own:UNet", "--path", OWN, "--arguments", '{"width": 4}', "--input", "3,32,32")


@pytest.mark.parametrize(
    "command",
    [["links"], ["links", "--json"], ["cuts", "paretopipe_worker.model.tiny:network"]],
    ids=" ".join,
)
def test_a_reader_that_has_enough_is_no_error(command: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)  # as `head` does
    done = subprocess.run(
        [sys.executable, "-m", "paretopipe_worker", *command],
        cwd=ROOT,
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def cuts(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """What the command ``cuts`` prints."""
    assert main(["cuts", *options]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("width", [80, 120])
def test_the_list_of_cuts_fits_the_terminal(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    about, _, table = cuts(capsys, *UNET).partition("\n\n")
    assert max(map(len, about.splitlines() + table.splitlines())) <= width
    lines = {line.split()[0]: line for line in table.splitlines()}
    assert lines["down.1"].endswith("  1x4x32x32, 1x8x16x16")
    assert lines["bottom.0"].endswith(
        {80: "  1x4x32x32, 3 more", 120: "  1x4x32x32, 1x8x16x16, 1x16x8x8, 1x32x4x4"}[width]
    )


def test_every_cut_says_what_crosses_and_what_both_sides_cost(
    capsys: pytest.CaptureFixture[str],
) -> None:
    document = json.loads(cuts(capsys, *UNET, "--batch", "2", "--json"))
    by_name = {cut["name"]: cut for cut in document["cuts"]}
    assert by_name["down.0"]["payload_bytes"] == 4 * 2 * 4 * 32 * 32
    (before, behind), (everything, nothing) = (by_name[n]["sides"] for n in ("down.0", "@first"))
    assert by_name["@last"]["sides"] == [nothing, everything]
    assert set(nothing.values()) == {0}
    for figure in ("held_bytes", "flops"):
        assert 0 < before[figure] < everything[figure]
        assert before[figure] + behind[figure] == everything[figure]
    assert max(before["peak_bytes"], behind["peak_bytes"]) == everything["peak_bytes"]
    # Two convolutions of 3 x 3: 3 to 4 channels and 4 to 4, at 2 x 32 x 32 places.
    assert before["flops"] == 2 * 9 * (3 * 4 + 4 * 4) * 2 * 32 * 32
    # Their weights, and of each a bias and four vectors of BatchNorm.
    assert before["held_bytes"] == 4 * (9 * (3 * 4 + 4 * 4) + 2 * 5 * 4)


def test_inputs_may_be_several_and_whole_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    given = ("--input", "9:int64:0:1000", "--input", "9", "--granularity", "op")
    document = json.loads(cuts(capsys, "own:Encoder", "--path", OWN, *given, "--json"))
    assert [(each["shape"], each["dtype"], each["high"]) for each in document["inputs"]] == [
        ([1, 9], "int64", 1000),
        ([1, 9], "float32", 2),
    ]
    assert document["cuts"][-1]["payload_bytes"] == 9 * (8 + 4)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--input", "3,x"),
        ("--input", "3,0"),
        ("--input", "9:int3"),
        ("--input", "9:int64:0"),
        ("--input", "9:int64:5:5"),
        ("--arguments", "[3]"),
        ("--arguments", "layers=3"),
        ("--batch", "0"),
    ],
)
def test_an_option_that_cannot_be_read_is_refused_with_what_is_allowed(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["cuts", "resnet18", option, value])
    last = capsys.readouterr().err.splitlines()[-1]
    assert f"argument {option}: must be" in last and repr(value) in last


def test_more_tensors_may_cross_at_granularity_op(capsys: pytest.CaptureFixture[str]) -> None:
    given = (*UNET, "--granularity", "op", "--json")
    one, all_ = (
        json.loads(cuts(capsys, *given, "--max-tensors", most))["cuts"] for most in ("1", "9")
    )
    assert max(len(cut["tensors"]) for cut in one) == 1
    assert max(len(cut["tensors"]) for cut in all_) == 4
    assert [cut for cut in all_ if len(cut["tensors"]) < 2] == one


def test_a_tensor_of_no_dimensions_has_a_shape_too() -> None:
    tensors = [{"shape": [], "dtype": "int64"}, {"shape": [1, 4], "dtype": "float32"}]
    assert listing.told(tensors) == "one int64, 1x4 float32"

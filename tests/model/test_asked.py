"""A model that cannot do what a spec asks of it is told in one line, and the others are planned."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from paretopipe_worker.__main__ import main
from paretopipe_worker.plan import plan as plans
from paretopipe_worker.plan.resume import todo

FLEET = json.dumps(
    [{"name": f"host{n}", "data_address": f"10.0.0.{n}", "data_port": 29500} for n in (1, 2)]
)
WORKS = "tests.helpers.unfit:works"

REFUSED = {
    "another shape": (
        {"name": WORKS, "input": [5]},
        "forward on a tensor of shape (1, 5) failed with RuntimeError: mat1 and mat2 shapes",
    ),
    "another dtype": (
        {"name": WORKS, "inputs": [{"shape": [4], "dtype": "int64"}]},
        "forward on a tensor of shape (1, 4) and int64 failed with RuntimeError: mat1 and mat2",
    ),
    "too many inputs": (
        {"name": WORKS, "inputs": [{"shape": [4]}, {"shape": [4]}]},
        "takes 2 positional arguments but 3 were given",
    ),
    "other keys": (
        {"name": WORKS, "weights": "{folder}/other.pt"},
        "does not fit Network: 4 not in the file: first.bias, first.weight, last.bias, last.weight;"
        " 2 not in the model: bias, weight",
    ),
    "no library": (
        {"name": WORKS, "weights": "DEFAULT"},
        "weights: there are none of the name 'DEFAULT'; allowed: the path of a checkpoint",
    ),
    "no images": (
        {"name": WORKS, "inputs": {"images": "{folder}"}},
        "inputs: it takes float32 (4,), which are no images; allowed are",
    ),
    "no file": ({"name": "net", "path": "{folder}/net.pt2"}, "net.pt2 cannot be read: No such"),
    "no factory": ({"name": "x", "factory": "tests.helpers.unfit:no"}, "has no callable 'no'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_the_model_and_the_reason_are_named_and_the_others_are_planned(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(nn.Linear(4, 2).state_dict(), tmp_path / "other.pt")
    asked, said = REFUSED[case]
    tiny = "paretopipe_worker.model.tiny:network"
    places = ("--results", str(tmp_path / "run"), "--cache", str(tmp_path / "cache"))
    given = ("--experiment", str(tmp_path / "spec.yml"), "--fleet", FLEET, "--run", "run")

    def prepared(*models: object) -> tuple[int, list[str], list[str]]:
        text = json.dumps({"models": models}).replace("{folder}", str(tmp_path))
        (tmp_path / "spec.yml").write_text(text)
        status = main(["prepare", *given, *places])
        printed = capsys.readouterr()
        return status, printed.out.splitlines(), printed.err.splitlines()

    status, out, [line] = prepared(asked)
    assert (status, out, (tmp_path / "run").exists()) == (2, [], False)
    assert line.startswith(f"models[0]: model '{asked['name']}': ")
    assert said in line
    status, out, err = prepared(tiny, asked)
    assert (status, err) == (0, [])
    assert f"NOT MEASURED: {line.replace('models[0]', 'models[1]')}" in out
    plan = plans.read(tmp_path / "run" / "plan.json")
    assert {point.model for point in plan.points} == {tiny}
    assert todo(plan, tmp_path / "run")["refused"] == plan.refused
    assert len(plan.refused) == 1


def test_the_command_cuts_takes_an_exported_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "words.pt2"
    model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 3), nn.Linear(3, 2)).eval()
    torch.export.save(torch.export.export(model, (torch.tensor([[1, 8]]),)), file)
    assert main(["cuts", str(file), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [cut["name"] for cut in document["cuts"]] == ["@first", "0", "1", "@last"]
    assert document["inputs"] == [{"shape": [1, 2], "dtype": "int64", "low": 1, "high": 9}]

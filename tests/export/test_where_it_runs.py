"""Exported stages run where only torch, or only onnxruntime, is installed."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from paretopipe_worker import export, listing
from paretopipe_worker.cuts import InputSpec
from paretopipe_worker.model import zoo
from paretopipe_worker.model.inputs import example_inputs
from paretopipe_worker.model.partition import largest_error, whole
from paretopipe_worker.model.sources import Source
from paretopipe_worker.model.verifying import MOST_ERROR
from tests import ROOT
from tests.helpers import venvs

pytestmark = pytest.mark.slow

OWN = ROOT / "experiments" / "models"

ABSENT = {
    "torch": ("paretopipe_worker", "torchvision", "onnxruntime", "onnx", "safetensors"),
    "onnxruntime": ("paretopipe_worker", "torch", "torchvision", "onnx"),
}

CHAIN = """\
import importlib.util, json, sys
import numpy
absent = [name for name in sys.argv[2].split(",") if importlib.util.find_spec(name)]
assert not absent, absent
if sys.argv[1] == "torch":
    import torch
    def run(number, given):
        stage = torch.export.load(f"stage-{number}.pt2").module()
        return [each.numpy() for each in stage(*map(torch.from_numpy, given))]
else:
    import onnxruntime
    def run(number, given):
        session = onnxruntime.InferenceSession(f"stage-{number}.onnx")
        return session.run(None, {f"input_{n}": each for n, each in enumerate(given)})
given = list(numpy.load(sys.argv[3]).values())
for stage in json.load(open("stages.json"))["stages"]:
    given = given if stage["empty"] else run(stage["stage"], given)
numpy.savez(sys.argv[4], *given)
"""
"""Runs the stages one after the other: with what, what is not there, inputs, where outputs go. The
examples of the README follow."""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pythons that have one of the runtimes, with numpy, and nothing else."""
    folder = tmp_path_factory.mktemp("venvs")
    return {name: venvs.made(folder / name, name, "numpy") for name in ABSENT}


def ran(python: Path, code: str, folder: Path, *arguments: str) -> None:
    """Run code in the folder of the files, apart from the checkout."""
    done = subprocess.run(
        [python, "-I", "-c", code, *arguments], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def examples(readme: str, suffix: str) -> list[str]:
    """The README's examples of one kind of file."""
    blocks = re.findall(r"^## (\S+)\n\n```python\n(.*?)```", readme, re.MULTILINE | re.DOTALL)
    return [code for name, code in blocks if name.endswith(suffix)]


def runs_anywhere(
    python: dict[str, Path],
    folder: Path,
    source: Source,
    cuts: Sequence[str],
    inputs: Sequence[InputSpec] = (),
) -> None:
    """Export a model; its files return what it returns, for an input that export did not see."""
    torch.set_num_threads(1)
    taken = listing.specs(source, 2, inputs)
    export.export(source, cuts, taken, folder / "out")
    document = json.loads((folder / "out" / "stages.json").read_text())
    assert document["compared"]["pt2_to_stages"] == 0
    assert 0 < document["compared"]["onnx_to_model"] <= export.ONNX_ERROR
    given = example_inputs(taken, seed=5, index=7)
    wanted = whole(zoo.build(source, seed=0, inputs=taken), *given)
    np.savez(folder / "inputs.npz", *(each.numpy() for each in given))
    readme = (folder / "out" / "README.md").read_text()
    for runtime, suffix, allowed in (
        ("torch", ".pt2", MOST_ERROR),
        ("onnxruntime", ".onnx", export.ONNX_ERROR),
    ):
        absent, outputs = ",".join(ABSENT[runtime]), folder / f"{runtime}.npz"
        places = (str(folder / "inputs.npz"), str(outputs))
        code = examples(readme, suffix)
        assert len(code) == sum(not stage["empty"] for stage in document["stages"])
        ran(python[runtime], CHAIN + "\n".join(code), folder / "out", runtime, absent, *places)
        found = tuple(map(torch.from_numpy, np.load(outputs).values()))
        assert largest_error(found, wanted) <= allowed, runtime


def test_a_cut_of_several_tensors_one_of_which_passes_a_stage_by(
    python: dict[str, Path], tmp_path: Path
) -> None:
    source = Source("own:UNet", arguments={"width": 4, "depth": 2}, path=OWN)
    runs_anywhere(python, tmp_path, source, ["down.1", "bottom.2"])


def test_whole_numbers_as_input(python: dict[str, Path], tmp_path: Path) -> None:
    source = Source("own:Encoder", arguments={"width": 16, "layers": 2}, path=OWN)
    words = [InputSpec((9,), "int64", 0, 1000), InputSpec((9,), "float32")]
    runs_anywhere(python, tmp_path, source, ["layer.0"], words)


SMALL = [InputSpec((3, 64, 64), "float32")]
VISION = {
    "a network, cut once": ("squeezenet1_1", ["features.6"], SMALL),
    "a network, cut twice": ("mobilenet_v3_small", ["features.3", "features.9"], ()),
    "one stage empty": ("resnet18", ["layer1.1", "@first"], SMALL),
    "windows": ("swin_t", ["features.3.0"], SMALL),
    "a transformer": ("vit_b_32", ["encoder.layers.encoder_layer_5"], ()),
}


@pytest.mark.long  # Converting large networks takes from ten seconds to a minute each.
@pytest.mark.parametrize(("name", "cuts", "inputs"), VISION.values(), ids=VISION)
def test_torchvision_s(
    name: str, cuts: list[str], inputs: Sequence[InputSpec], python: dict[str, Path], tmp_path: Path
) -> None:
    runs_anywhere(python, tmp_path, Source(name), cuts, inputs)


@pytest.mark.long
def test_a_transformer_of_one_s_own_that_returns_a_tuple(
    python: dict[str, Path], tmp_path: Path
) -> None:
    runs_anywhere(python, tmp_path, Source("own:Regressor", path=OWN), ["layers.0", "layers.1"])

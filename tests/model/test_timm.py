"""Models of timm, built by name on the controller."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from paretopipe_worker.cuts import InputSpec
from paretopipe_worker.model import zoo
from paretopipe_worker.model.nms import mend_torchvision
from paretopipe_worker.model.sources import ModelError, Source, default_input
from paretopipe_worker.model.trial import cut_table
from tests import ROOT

mend_torchvision()
timm: Any = importlib.import_module("timm") if importlib.util.find_spec("timm") else None

NAME = "timm/mobilenetv3_small_050"

pytestmark = pytest.mark.slow


def needs_timm(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test that CI may not skip."""
    missing = pytest.mark.skipif(timm is None, reason="timm of requirements.txt is not installed")
    return pytest.mark.must_run(missing(test))


@needs_timm
def test_a_model_is_built_with_live_weights_and_cut_at_its_blocks() -> None:
    shape = default_input(NAME)
    assert shape == (3, 224, 224)
    taken = [InputSpec((1, 3, 96, 96), "float32")]
    table, captured = cut_table(zoo.build(NAME, seed=1, inputs=taken), NAME, "block", taken)
    assert table.program_error == 0
    assert {"blocks.1.0", "blocks.2.1", "conv_head"} <= set(table.names), table.names
    first, again = (zoo.build(NAME, seed=1, inputs=taken) for _ in range(2))
    assert torch.equal(first.classifier.weight, again.classifier.weight)
    assert all("::" in each.target for each in captured.program.operations)


@needs_timm
def test_arguments_and_another_name() -> None:
    source = Source("small", NAME, {"num_classes": 7})
    model = zoo.build(source, seed=1, input_shape=(3, 64, 64))
    assert model(torch.rand(1, 3, 64, 64)).shape == (1, 7)


@needs_timm
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("timm/mobilnetv3_small_050", r"close: timm/mobilenetv3_small_050.*listed by"),
        (f"{NAME}.nobody", r"no weights of the tag 'nobody'; allowed tags: lamb_in1k"),
    ],
)
def test_an_unknown_name_is_refused_with_what_is_allowed(name: str, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        zoo.build(name, seed=1)


@needs_timm
def test_weights_of_another_name_are_refused() -> None:
    with pytest.raises(ModelError, match=r"none of the name 'DEFAULT'; allowed: pretrained,"):
        zoo.build(Source(NAME, weights="DEFAULT"), seed=1)


@needs_timm
def test_pretrained_weights_are_those_of_the_cache_or_refused_in_a_line(
    tmp_path: Path,
) -> None:
    done = _built(tmp_path)
    assert done.returncode == 2
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith(f"model '{NAME}': weights: https://huggingface.co/timm/mobilenetv3")
    assert "cannot be had or does not fit: " in line
    assert line.endswith("or a checkpoint that was fetched elsewhere, by its path")
    (folder := _cached(tmp_path)).mkdir(parents=True)
    model = timm.create_model(NAME.removeprefix("timm/"))
    torch.nn.init.constant_(model.classifier.bias, 0.375)
    save_file(model.state_dict(), folder / "model.safetensors")
    assert json.loads(_built(tmp_path).stdout) == 0.375


BUILD = f"""\
import json, sys
from paretopipe_worker.model import zoo
from paretopipe_worker.model.sources import Source
try:
    model = zoo.build(Source({NAME!r}, weights="pretrained"), seed=1)
except ValueError as error:
    print(error, file=sys.stderr)
    sys.exit(2)
print(json.dumps(float(model.classifier.bias.unique())))
"""


def _cached(home: Path) -> Path:
    """The folder in which the hub's library keeps the model's files, known by a revision."""
    repository = home / "hub" / "models--timm--mobilenetv3_small_050.lamb_in1k"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text("0" * 40)
    return repository / "snapshots" / ("0" * 40)


def _built(home: Path) -> subprocess.CompletedProcess[str]:
    """Build the model with pretrained weights where no hub can be reached."""
    return subprocess.run(
        [sys.executable, "-c", BUILD],
        env={**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_without_timm_a_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ModelError, match=r"timm is not installed .*pip install timm"):
        zoo.build(NAME, seed=1)

"""Every family of torchvision's classifiers is captured, cut, and run as a host runs it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from torch import nn

from paretopipe_worker.cuts import InputSpec
from paretopipe_worker.model import loading, weights, zoo
from paretopipe_worker.model import program as programs
from paretopipe_worker.model.inputs import example_input
from paretopipe_worker.model.partition import find_cuts, split
from paretopipe_worker.model.sources import _torchvision_models, classifiers, default_input
from paretopipe_worker.model.trial import cut_table
from tests.helpers.models import checked, narrowed, smallest
from tests.model.table import PAGE, Counts, said

pytestmark = pytest.mark.slow


def families() -> list[str]:
    """The classifier of each of torchvision's modules that computes least, and a second Swin."""
    vision = _torchvision_models()
    found: dict[str, tuple[float, str]] = {}
    for name in classifiers():
        operations = min(each.meta["_ops"] for each in vision.get_model_weights(name))
        family = vision.get_model_builder(name).__module__
        found[family] = min((operations, name), found.get(family, (operations, name)))
    return [*(name for _, name in found.values()), "swin_v2_t"]


def _plain(model: nn.Module) -> nn.Module:
    """Draw parameters by a cheap rule: their values do not matter here."""
    for part in model.modules():
        for key, held in part._parameters.items():
            if held is not None:
                drawn = torch.arange(held.numel()).remainder(7).sub(3).reshape(held.shape)
                scale = 0.5 / max(1, held[0].numel()) ** 0.5 if held.dim() > 1 else 0.1
                part._parameters[key] = nn.Parameter(drawn * scale, requires_grad=False)
    return model.eval()


def _as_a_host(model: nn.Module, name: str, folder: Path, shape: tuple[int, ...]) -> None:
    """Make a table of the model, write what hosts get, read it, and compare its stages."""
    taken = InputSpec((1, *shape), "float32")
    table, captured = cut_table(_plain(model), name, "block", [taken], seed=0)
    file, tensors = folder / "program.json", folder / "tensors.safetensors"
    loading.save_program(captured.program, file)
    assert programs.sha256(captured.program) == table.graph_sha256
    weights.save_weights(captured.tensors, tensors)
    program = loading.load_program(file, table.graph_sha256)
    loaded = loading.partitioned(program, loading.load_tensors(tensors, [program]))
    assert find_cuts(loaded, "block") == table.cuts
    assert Counts.of(captured) == said(PAGE.read_text())[name], "run `python -m tests.model.table`"
    inputs = [example_input(taken, seed=1, index=0)]
    references = [loaded.whole(tensor) for tensor in inputs]
    assert 0 < references[0][0].abs().max() < float("inf")
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    op = random.Random(seed).choice(find_cuts(loaded, "op")).name
    for cut in (table.names[len(table.cuts) // 2], op):
        assert checked(split(loaded, [cut]), inputs, references).exact, cut


@pytest.mark.parametrize("name", families())
def test_every_family_of_classifiers_runs_as_a_host_runs_it(name: str, tmp_path: Path) -> None:
    model = narrowed(zoo.skeleton(name, seed=0))
    _as_a_host(model, name, tmp_path, (3, smallest(name), smallest(name)))


def test_the_page_has_a_row_for_every_classifier() -> None:
    assert list(said(PAGE.read_text())) == list(classifiers())


@pytest.mark.long
@pytest.mark.timeout(900)  # The largest take minutes where others use the cores.
@pytest.mark.parametrize("name", classifiers())
def test_every_classifier_runs_as_a_host_runs_it(name: str, tmp_path: Path) -> None:
    _as_a_host(zoo.skeleton(name, seed=0), name, tmp_path, default_input(name))

"""Models that ``torch.export.save`` wrote, as people pass them on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim

from paretopipe_worker.cuts import CutTable, InputSpec
from paretopipe_worker.model import zoo
from paretopipe_worker.model.inputs import example_inputs
from paretopipe_worker.model.sources import ModelError, Source, default_inputs
from paretopipe_worker.model.trial import cut_table
from tests.helpers.models import smallest

OWN = Path(__file__).parents[2] / "experiments/models/own.py"
WORDS = (InputSpec((32,), "int64", 3, 1000), InputSpec((32,), "float32"))


def saved(
    model: nn.Module, file: Path, args: Sequence[Any], kwargs: Any = None, **more: Any
) -> Source:
    """Export a model to a file; the source that the file's path stands for."""
    torch.export.save(torch.export.export(model.eval(), tuple(args), kwargs, **more), file)
    return Source.of(str(file))


def table(model: nn.Module, granularity: str, items: Sequence[InputSpec], batch: int) -> CutTable:
    """The cut table of a model."""
    taken = [replace(each, shape=(batch, *each.shape)) for each in items]
    return cut_table(model, "model", granularity, taken)[0]


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 3], ids=["static", "any"])
@pytest.mark.parametrize(
    "source",
    [
        "mobilenet_v3_small",
        *(pytest.param(name, marks=pytest.mark.long) for name in ("resnet18", "densenet121")),
        pytest.param("vit_b_32", marks=pytest.mark.long),
        Source("unet", "own:UNet", path=OWN),
        Source("encoder", "own:Encoder", path=OWN),
    ],
    ids=lambda source: Source.of(source).name,
)
def test_a_file_has_the_cuts_of_the_model_that_it_was_made_from(
    source: Source | str, batch: int, tmp_path: Path
) -> None:
    name = Source.of(source).name
    items = (
        WORDS if name == "encoder" else (InputSpec((3, smallest(name), smallest(name)), "float32"),)
    )
    taken = [replace(each, shape=(2, *each.shape)) for each in items]
    model = zoo.build(source, seed=1, inputs=taken)
    args = example_inputs(
        [replace(each, shape=(batch, *each.shape)) for each in items], seed=1, index=0
    )
    dynamic = {"dynamic_shapes": [{0: Dim.DYNAMIC} for _ in args]} if batch > 1 else {}
    file = saved(model, tmp_path / "net.pt2", args, **dynamic)
    again = default_inputs(file)
    assert [(each.shape, each.dtype) for each in again] == [(e.shape, e.dtype) for e in items]
    # Other than the file's batch, where it takes any.
    loaded = zoo.build(file, seed=2)
    for granularity in ("block", "op"):
        wanted = table(model, granularity, items, 2 if batch > 1 else 1)
        found = table(loaded, granularity, items, 2 if batch > 1 else 1)
        assert found.cuts == wanted.cuts
        assert found.program_error == 0
    with torch.inference_mode():
        left, right = (each(*(tensor.clone() for tensor in args)) for each in (model, loaded))
    for one, other in zip(_leaves(left), _leaves(right), strict=True):
        # A transformer's own faster path for eager execution is not in the file.
        assert torch.allclose(one, other, rtol=0, atol=1e-5 * float(one.abs().max()))


def _leaves(output: Any) -> list[torch.Tensor]:
    return [*output.values()] if isinstance(output, dict) else [output]


NESTED = ("again.0", "again.1", "first", "again.0#2", "again.1#2")


class Shared(nn.Module):
    """Call one layer twice, and take what is nested and given by name."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again = nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.ReLU())

    def forward(self, x: torch.Tensor, *, more: dict[str, torch.Tensor]) -> Any:
        """Shapes (batch, 4) and (batch, 4)."""
        return {"out": self.again(self.first(self.again(x))) * more["scale"], "nothing": None}


def test_inputs_that_are_nested_or_given_by_name_are_taken_in_order(tmp_path: Path) -> None:
    model, x, scale = Shared(), torch.rand(1, 4), torch.rand(1, 4)
    source = saved(model, tmp_path / "shared.pt2", (x,), {"more": {"scale": scale}})
    assert default_inputs(source) == (InputSpec((4,), "float32"),) * 2
    loaded = zoo.build(source, seed=0)
    with torch.inference_mode():
        wanted = model(x, more={"scale": scale})["out"]
        assert torch.equal(loaded(x, scale)["out"], wanted)
    found = table(loaded, "block", default_inputs(source), 1)
    assert (found.names, found.program_error) == (NESTED, 0)


def test_whole_numbers_are_drawn_from_the_range_of_the_files_example(tmp_path: Path) -> None:
    words = torch.tensor([[3, 7, 5, 9]])
    source = saved(nn.Sequential(nn.Embedding(10, 2)), tmp_path / "words.pt2", (words,))
    assert default_inputs(source) == (InputSpec((4,), "int64", 3, 10),)


def test_a_checkpoint_replaces_the_weights_of_a_file(tmp_path: Path) -> None:
    model, x = nn.Sequential(nn.Linear(4, 2)), torch.rand(1, 4)
    source = saved(model, tmp_path / "net.pt2", (x,))
    nn.init.ones_(model[0].weight)
    torch.save(model.state_dict(), tmp_path / "trained.pt")
    assert not torch.equal(zoo.build(source, seed=0)(x), model(x))
    assert torch.equal(zoo.build(source, seed=0, weights=tmp_path / "trained.pt")(x), model(x))


def test_a_file_that_is_not_whole_is_refused_in_a_line(tmp_path: Path) -> None:
    whole, x = tmp_path / "net.pt2", torch.rand(1, 4)
    saved(nn.Sequential(nn.Linear(4, 2)), whole, (x,))
    data = bytearray(whole.read_bytes())
    (tmp_path / "half.pt2").write_bytes(data[: len(data) // 2])
    at = data.index(b"relu" if b"relu" in data else b"aten")
    data[at] ^= 1
    (tmp_path / "flipped.pt2").write_bytes(data)
    torch.save(nn.Linear(4, 2).state_dict(), tmp_path / "state.pt2")
    for name, said in {
        "half": "is damaged, or not what torch.export.save of this version",
        "flipped": "is damaged: the checksum of ",
        "state": "is damaged, or not what torch.export.save",
        "none": "cannot be read: No such file",
    }.items():
        file = tmp_path / f"{name}.pt2"
        with pytest.raises(ModelError) as refused:
            zoo.build(str(file), seed=0)
        assert f"model '{name}': {file} {said}" in str(refused.value)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("items", "batch", "said"),
    [
        ([InputSpec((4,), "float32")], 2, "shape[0] to be equal to 1, but got 2"),
        ([InputSpec((5,), "float32")], 1, "shape[1] to be equal to 4, but got 5"),
        ([InputSpec((4,), "float32")] * 2, 1, "it takes 1 tensors and not 2"),
        ([InputSpec((4,), "int64")], 1, "a tensor of shape (1, 4) and int64 failed with"),
    ],
    ids=["batch", "shape", "number", "dtype"],
)
def test_inputs_that_a_file_was_not_made_for_are_refused(
    items: list[InputSpec], batch: int, said: str, tmp_path: Path
) -> None:
    source = saved(nn.Sequential(nn.Linear(4, 2)), tmp_path / "net.pt2", (torch.rand(1, 4),))
    with pytest.raises(ValueError) as refused:
        table(zoo.build(source, seed=0), "op", items, batch)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_a_file_cannot_be_asked_for_is_refused(tmp_path: Path) -> None:
    source = saved(nn.Sequential(nn.Linear(4, 2)), tmp_path / "net.pt2", (torch.rand(1, 4),))
    with pytest.raises(ModelError, match=r"weights: there are none of the name 'DEFAULT'"):
        zoo.build(replace(source, weights="DEFAULT"), seed=0)
    with pytest.raises(ModelError, match=r"arguments: .*net\.pt2 takes none"):
        zoo.build(replace(source, arguments={"width": 3}), seed=0)
    number = saved(_Scaled(), tmp_path / "number.pt2", (torch.rand(1, 4), 2))
    with pytest.raises(ModelError, match=r"input 1 of .* is int without a batch; allowed are"):
        default_inputs(number)


class _Scaled(nn.Module):
    """Take a number beside a tensor."""

    def forward(self, x: torch.Tensor, scale: int) -> torch.Tensor:
        """Multiply."""
        return x * scale

"""Capturing a model finds where it may be cut."""

from __future__ import annotations

import logging.handlers
import queue
import re

import pytest
import torch
from torch import nn

from paretopipe_worker.cuts import TensorSpec
from paretopipe_worker.model.capture import capture
from paretopipe_worker.model.partition import PartitionError, check_split, find_cuts, split
from tests.helpers.models import (
    PAPER,
    RESNET18_BLOCKS,
    captured_at,
    cut_names,
    prepared,
    quick,
    smallest,
    two_inputs,
)
from tests.model import cut_oracle

pytestmark = pytest.mark.slow

CUT_COUNTS = {
    "mobilenet_v2": (20, 71),
    "resnet18": (13, 22),
    "resnet50": (21, 38),
    "alexnet": (19, 19),
    "vgg16": (36, 37),
    "inception_v3": (19, 30),
}
"""Block and op cuts of the paper's models. A first prototype listed 223 op cuts, these and the 6
dropouts that do no work."""


@pytest.mark.parametrize("name", PAPER)
def test_op_cuts_are_those_a_twin_finds_by_forgetting_everything_else(name: str) -> None:
    size = smallest(name)
    example = two_inputs(name, size=size)[0]
    cuts = find_cuts(captured_at(name, size=size), "op")
    twin = cut_oracle.op_cuts(quick(name), example)
    assert [cut.tensors for cut in cuts] == [(TensorSpec(s, "float32"),) for _, s in twin]
    block_names = set(cut_names(captured_at(name, size=size), "block"))
    for cut, (label, _) in zip(cuts, twin, strict=True):
        operation = cut.name.rpartition(":")[2].partition("#")[0]
        assert operation == label or cut.name in block_names, (cut.name, label)


@pytest.mark.parametrize("name", PAPER)
def test_block_cuts_are_those_a_twin_finds_by_poisoning_the_input(name: str) -> None:
    size = smallest(name)
    model, example = quick(name), two_inputs(name, size=size)[0]
    blocks = [
        f"{child}.{inner}" if type(module) is nn.Sequential else child
        for child, module in model.named_children()
        for inner, _ in (module.named_children() if type(module) is nn.Sequential else [("", 0)])
    ]
    twin = cut_oracle.block_cuts(model, example, blocks)
    captured = captured_at(name, size=size)
    assert cut_names(captured, "block") == [path for path, _ in twin]
    for path, output in twin:
        first = split(captured, [path])[0]
        assert first is not None
        assert torch.equal(first(example.clone())[0], output), path


@pytest.mark.parametrize("name", PAPER)
def test_numbers_of_cuts_and_unique_names(name: str) -> None:
    captured = captured_at(name)
    block, op = cut_names(captured, "block"), cut_names(captured, "op")
    assert (len(block), len(op)) == CUT_COUNTS[name]
    assert len(set(op)) == len(op)
    assert [cut for cut in op if cut in block] == block


def test_blocks_are_named_by_module_path() -> None:
    mobilenet = cut_names(captured_at("mobilenet_v2"), "block")
    assert mobilenet == [*(f"features.{i}" for i in range(19)), "classifier.0"]
    resnet = cut_names(captured_at("resnet18"), "block")
    assert resnet == RESNET18_BLOCKS


def test_capturing_computes_nothing() -> None:
    model = nn.Sequential(nn.Linear(4, 4), _Counting(), nn.Linear(4, 2)).eval()
    captured = capture(model, torch.ones(2, 4))
    assert captured.output == (TensorSpec((2, 2), "float32"),)
    assert _Counting.values_seen == []


class _Counting(nn.ReLU):
    """Notes each real tensor that it is run on."""

    values_seen: list[float] = []  # noqa: RUF012

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Note the input."""
        if type(input) is torch.Tensor:
            self.values_seen.append(input.sum().item())
        return super().forward(input)


class _Shapes(nn.Module):
    """Uses sizes across operations, and a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor, scale: float = 2.0) -> torch.Tensor:
        """Reshape forth and back by sizes taken at the start."""
        batch, channels, width = x.shape
        torch._assert(width == 6, "width")
        y = self.linear(x).reshape(batch, channels * width)
        y = torch.relu(y) * scale
        return y.view(batch, channels, -1).transpose(1, 2).contiguous() + width


def test_sizes_do_not_cross_and_default_arguments_keep_their_values() -> None:
    captured, inputs, references = prepared(_Shapes(), torch.randn(2, 3, 6))
    names = cut_names(captured, "op")
    assert names == ["linear", "reshape", "relu", "mul", "view", "transpose", "contiguous"]
    for name in names:
        assert check_split(split(captured, [name]), inputs, references).exact, name


def test_a_name_taken_by_a_module_is_not_given_to_an_operation() -> None:
    class Flatten(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.flatten = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.flatten(self.flatten(x), 1) + torch.flatten(x, 1)

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu = nn.ReLU()
            self.flatten = nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.relu(self.flatten(self.relu(torch.flatten(x, 1)))) + 1

    assert cut_names(capture(Flatten().eval(), torch.randn(2, 2, 4)), "op") == []
    twice = capture(Twice().eval(), torch.randn(2, 2, 4))
    assert cut_names(twice, "op") == [":flatten", "relu", "flatten", "relu#2"]
    assert cut_names(twice, "block") == ["relu", "flatten", "relu#2"]


class _Gated(nn.Module):
    """Skips work where an input is small."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Branch on a value."""
        if x.sum() > 0:
            return x + 1
        return x - 1


def test_data_dependent_control_flow_is_refused_with_module_file_and_line() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU(), _Gated()))
    with pytest.raises(PartitionError) as caught:
        capture(model.eval(), torch.randn(2, 4))
    text = str(caught.value)
    assert "module '1.1' (_Gated)" in text
    assert re.search(r"test_capture\.py:\d+: `if x\.sum\(\) > 0:`", text)
    assert "control flow" in text


class _Scaled(nn.Module):
    """Reads a value, without branching on it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scale by the largest value, late."""
        y = torch.relu(self.first(x))
        largest = y.max().item()
        return torch.tanh(self.second(y)) / (1 + largest)


def test_a_value_read_from_a_tensor_is_not_frozen_and_not_cut_across() -> None:
    captured, inputs, references = prepared(_Scaled(), torch.randn(2, 4))
    assert cut_names(captured, "op") == ["first", "relu"]
    for name in ("first", "relu"):
        assert check_split(split(captured, [name]), inputs, references).exact


def test_a_model_that_does_not_return_tensors_is_refused() -> None:
    class Dictionary(nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"logits": x + 1}

    with pytest.raises(PartitionError, match=r"returns .*logits.*allowed are a tensor"):
        capture(Dictionary().eval(), torch.randn(2, 4))


def test_an_input_that_does_not_fit_is_refused_with_its_shape() -> None:
    logged = logging.handlers.QueueHandler(queue.SimpleQueue())
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    logger.addHandler(logged)
    with pytest.raises(PartitionError, match=r"does not run on .*\(1, 5\)"):
        capture(nn.Sequential(nn.Linear(4, 4)).eval(), torch.randn(1, 5))
    logger.removeHandler(logged)
    assert logged.queue.empty(), "torch logs a traceback of its own"

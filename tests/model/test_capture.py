"""Capturing a model finds where it may be cut."""

from __future__ import annotations

import logging.handlers
import queue
import re
from dataclasses import asdict

import pytest
import torch
from torch import nn

from paretopipe_worker.cuts import TensorSpec
from paretopipe_worker.model.capture import capture
from paretopipe_worker.model.partition import find_cuts, split
from paretopipe_worker.model.program import PartitionError
from tests.helpers import networks
from tests.helpers.models import (
    PAPER,
    captured_at,
    checked,
    cut_names,
    place_names,
    prepared,
    programmed,
    quick,
    smallest,
    two_inputs,
)
from tests.model import cut_oracle

pytestmark = pytest.mark.slow


def small(name: str) -> torch.Tensor:
    """The first of a classifier's smallest inputs."""
    return two_inputs(name, size=smallest(name))[0]


@pytest.mark.parametrize("name", PAPER)
def test_op_cuts_are_those_a_twin_finds_by_forgetting_everything_else(name: str) -> None:
    captured = captured_at(name, size=smallest(name))
    cuts, twin = find_cuts(captured, "op"), cut_oracle.op_cuts(captured, small(name))
    blocks = cut_names(captured, "block")
    assert [cut.tensors for cut in cuts] == [(TensorSpec(s, "float32"),) for _, s in twin]
    for cut, (operation, _) in zip(cuts, twin, strict=True):
        path, _, call = cut.name.partition("#")[0].rpartition(":")
        plain, inside = operation.target.split("::")[1].split(".")[0], operation.modules
        assert cut.name in blocks or call in (plain, *inside[-1:]), (cut.name, plain, inside)
        assert not path or path == inside[-1]


@pytest.mark.parametrize("name", ["resnet18", "Language", "Detector", "Strided"])
def test_at_every_place_exactly_the_listed_tensors_suffice(name: str) -> None:
    if name in PAPER:
        captured, example = captured_at(name, size=smallest(name)), small(name)
    else:
        model = {"Strided": _Strided, **vars(networks)}[name]().eval()
        example = torch.randn(2, *model.input_shape)
        captured = programmed(model, example)
    twin = cut_oracle.Forgetful(captured, example)
    assert captured.places
    for place in captured.places:
        assert twin.suffices(place.values, place.end), place.name
        for left_out in place.values:
            others = [value for value in place.values if value != left_out]
            assert not twin.suffices(others, place.end), (place.name, left_out)


class _Strided(nn.Module):
    """Hands on tensors that lie in memory in another order, parts, and what is none of its own."""

    input_shape = (4, 6)

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.last = nn.Linear(6, 6), nn.Linear(4, 4)
        self.register_buffer("table", torch.arange(4.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape (batch, 4, 6) to (batch, 6, 4)."""
        y = torch.relu(self.linear(x)).transpose(1, 2)
        low, high = torch.split(y + self.table.exp(), 3, 1)
        z = torch.cat([high.sin(), low.cos()], 1)
        return self.last(z) * y.amax() + x.permute(0, 2, 1)  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", PAPER)
def test_block_cuts_are_those_a_twin_finds_by_poisoning_the_input(name: str) -> None:
    model, example = quick(name), small(name)
    blocks = [
        f"{child}.{inner}" if type(module) is nn.Sequential else child
        for child, module in model.named_children()
        for inner, _ in (module.named_children() if type(module) is nn.Sequential else [("", 0)])
    ]
    twin = cut_oracle.block_cuts(model, example, blocks)
    captured = captured_at(name, size=smallest(name))
    assert cut_names(captured, "block") == [path for path, _ in twin]
    for path, output in twin:
        first = split(captured, [path])[0]
        assert first is not None
        assert torch.equal(first(example.clone())[0].view_as(output), output), path


def test_capturing_computes_nothing() -> None:
    model = nn.Sequential(nn.Linear(4, 4), _Counting(), nn.Linear(4, 2)).eval()
    program = capture(model, [torch.ones(2, 4)]).program
    assert program.layouts()[program.outputs[0]].spec == TensorSpec((2, 2), "float32")
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
    assert names == ["linear", ":relu", ":mul", ":contiguous"]
    for name in names:
        assert checked(split(captured, [name]), inputs, references).exact, name


def test_operations_name_their_modules_and_the_line_that_they_are_written_in() -> None:
    program = programmed(nn.Sequential(_Shapes()).eval(), torch.randn(2, 3, 6)).program
    [relu] = [each for each in program.operations if each.target == "aten::relu.default"]
    assert (relu.modules, relu.leaf) == (("0",), False)
    [line] = re.findall(r"^tests/model/test_capture\.py:(\d+)$", relu.where)
    assert "torch.relu(y)" in _line(int(line))
    [linear] = [each for each in program.operations if each.target == "aten::linear.default"]
    assert (linear.modules, linear.leaf) == (("0", "0.linear"), True)


def _line(number: int) -> str:
    """A line of this file."""
    with open(__file__, encoding="utf-8") as file:  # noqa: PTH123
        return file.readlines()[number - 1]


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

    flatten = programmed(Flatten().eval(), torch.randn(2, 2, 4))
    assert cut_names(flatten, "op") == []
    assert place_names(flatten) == ["flatten"]
    twice = programmed(Twice().eval(), torch.randn(2, 2, 4))
    assert cut_names(twice, "op") == ["relu", "flatten", "relu#2"]
    assert cut_names(twice, "block") == ["relu", "flatten", "relu#2"]


def test_one_model_is_always_the_same_program() -> None:
    torch.manual_seed(1)
    model, example = networks.Detector().eval(), torch.randn(1, 3, 32, 32)
    first, again = (capture(model, [example]).program for _ in range(2))
    assert asdict(first) == asdict(again)
    other = capture(model, [torch.randn(2, 3, 32, 32)]).program
    assert other.tensors == first.tensors
    assert other.operations != first.operations


class _Gated(nn.Module):
    """Skips work where an input is small."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Branch on a value."""
        if x.sum() > 0:
            return x + 1
        return x - 1


def _largest(x: torch.Tensor) -> float:
    """Read a value."""
    return x.max().item()


class _Scaled(nn.Module):
    """Reads a value, without branching on it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scale by the largest value, late."""
        y = torch.relu(self.first(x))
        largest = _largest(y)
        return torch.tanh(self.second(y)) / (1 + largest)


def test_data_dependent_control_flow_is_refused_with_module_file_and_line(
    capfd: pytest.CaptureFixture[str],
) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU(), _Gated()))
    with pytest.raises(PartitionError) as caught:
        capture(model.eval(), [torch.randn(2, 4)])
    text = str(caught.value)
    assert "module '1.1' (_Gated)" in text
    [line] = re.findall(r"test_capture\.py:(\d+): `if x\.sum\(\) > 0:`", text)
    assert "if x.sum() > 0:" in _line(int(line))
    assert "control flow" in text
    assert capfd.readouterr() == ("", ""), "torch prints what it has recorded"


def test_a_value_read_from_a_tensor_is_refused_with_module_file_and_line() -> None:
    with pytest.raises(PartitionError, match="reads a number from a tensor in module '1' ") as no:
        capture(nn.Sequential(nn.ReLU(), _Scaled()).eval(), [torch.randn(2, 4)])
    [line] = re.findall(r"\(tests/model/test_capture\.py:(\d+)\)", str(no.value))
    assert "return x.max().item()" in _line(int(line))


def test_an_input_that_does_not_fit_is_refused_and_nothing_is_logged(
    capfd: pytest.CaptureFixture[str],
) -> None:
    messages: queue.SimpleQueue[object] = queue.SimpleQueue()
    logged = logging.handlers.QueueHandler(messages)
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    logger.addHandler(logged)
    with pytest.raises(PartitionError, match=r"^Sequential cannot be captured: .*1, 5\] X \[4, 4"):
        capture(nn.Sequential(nn.Linear(4, 4)).eval(), [torch.randn(1, 5)])
    logger.removeHandler(logged)
    assert messages.empty(), "torch logs a traceback of its own"
    assert capfd.readouterr() == ("", "")

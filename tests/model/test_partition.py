"""The stages of a split compute what the model computes, and the gate sees where they do not."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest
import torch
from paretopipe_worker.model.graph import CapturedModel
from torch import nn

from paretopipe_worker.cuts import FIRST, LAST, TensorSpec
from paretopipe_worker.model import zoo
from paretopipe_worker.model.capture import capture
from paretopipe_worker.model.partition import PartitionError, check_split, find_cuts, split, whole
from paretopipe_worker.model.trial import cut_table
from tests.helpers.models import (
    PAPER,
    RESNET18_BLOCKS,
    captured_at,
    classifier,
    cut_names,
    half,
    prepared,
    quick,
    smallest,
    two_inputs,
)

pytestmark = pytest.mark.slow

OTHERS = (
    "vit_b_32",
    "convnext_tiny",
    "densenet121",
    "googlenet",
    "shufflenet_v2_x1_0",
    "swin_v2_t",
)


def _assert_exact(
    captured: CapturedModel, inputs: list[torch.Tensor], cuts: Callable[[CapturedModel], list[str]]
) -> None:
    """Compare the stages at each of the cuts with the whole model, bit by bit."""
    references = [whole(captured.model, tensor) for tensor in inputs]
    checks = {
        cut: check_split(split(captured, [cut]), inputs, references) for cut in cuts(captured)
    }
    assert checks
    assert {cut: check for cut, check in checks.items() if not check.exact} == {}


@pytest.mark.parametrize("name", PAPER)
def test_stages_are_exact_at_every_cut_and_endpoint(name: str) -> None:
    """The cuts of granularity op, among which those of granularity block are."""
    size = smallest(name)
    captured, inputs = captured_at(name, size=size), two_inputs(name, size=size)
    _assert_exact(captured, inputs, lambda captured: [FIRST, *cut_names(captured, "op"), LAST])


@pytest.mark.long
@pytest.mark.parametrize("name", PAPER)
def test_stages_are_exact_at_every_op_cut_of_full_models_on_full_inputs(name: str) -> None:
    inputs = two_inputs(name)
    captured = capture(classifier(name), inputs[0])
    _assert_exact(captured, inputs, lambda captured: cut_names(captured, "op"))


@pytest.mark.parametrize("name", [*PAPER, *OTHERS])
def test_stages_are_exact_at_sampled_op_cuts(name: str) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    sample = random.Random(seed).sample
    captured, inputs = captured_at(name, 2, half(name)), two_inputs(name, 2, half(name))
    _assert_exact(captured, inputs, lambda captured: sample(cut_names(captured, "op"), 2))


def test_three_stages_share_the_work_in_order() -> None:
    inputs = two_inputs("resnet18")
    model = quick("resnet18")
    captured = captured_at("resnet18")
    references = [whole(model, tensor) for tensor in inputs]
    for names in (("layer1.0", "layer3.0"), (LAST, "layer2.1"), ("layer2.1", FIRST)):
        stages = split(captured, names)
        assert len(stages) == 3
        assert check_split(stages, inputs, references).exact, names
    unused = [[stage is None for stage in split(captured, ends)] for ends in _endpoints()]
    assert unused == [[False, True, True], [True, False, True], [True, True, False]]


def _endpoints() -> list[tuple[str, str]]:
    """Endpoints of three stages: all on the first, the second, the third."""
    return [(FIRST, FIRST), (LAST, FIRST), (LAST, LAST)]


def test_a_stage_holds_only_its_own_weights_under_their_own_names_and_copies_none() -> None:
    model = quick("resnet18")
    stages = split(captured_at("resnet18"), ["layer2.0"])
    own = [stage.state_dict() for stage in stages if stage is not None]
    state = model.state_dict()
    assert own[0].keys() | own[1].keys() == state.keys()
    assert not own[0].keys() & own[1].keys()
    assert all(
        tensor.data_ptr() == state[name].data_ptr() for part in own for name, tensor in part.items()
    )


def test_a_stage_is_built_in_milliseconds() -> None:
    captured = captured_at("mobilenet_v2")
    times = []
    for name in cut_names(captured, "block"):
        start = time.thread_time()
        split(captured, [name])
        times.append(time.thread_time() - start)
    assert sorted(times)[len(times) // 2] < 2 * 0.020


class _InPlace(nn.Module):
    """Overwrites its input and uses what it has overwritten by both names."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)
        self.linear = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add a tensor to itself, under two names."""
        y = self.relu(x)
        return self.linear(x + y)


def test_a_tensor_under_two_names_crosses_once() -> None:
    captured, inputs, references = prepared(_InPlace(), torch.randn(2, 4))
    assert cut_names(captured, "op") == ["relu", "add"]
    for cut in find_cuts(captured, "op"):
        assert len(cut.tensors) == 1
        assert check_split(split(captured, [cut.name]), inputs, references).exact


def test_the_gate_says_whether_the_first_stage_overwrites_its_input() -> None:
    captured, inputs, references = prepared(_InPlace(), torch.randn(2, 4))
    given = [tensor.clone() for tensor in inputs]
    assert check_split(split(captured, ["relu"]), inputs, references).overwrites_input
    assert not check_split(split(captured, [LAST]), inputs, references).overwrites_input
    assert all(torch.equal(a, b) for a, b in zip(inputs, given, strict=True))


def test_the_gate_sees_a_wrong_stage() -> None:
    captured, inputs, references = prepared(
        nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), torch.randn(2, 4)
    )
    first, second = split(captured, ["0"])
    wrong = [(reference[0] + 1e-6,) for reference in references]
    assert check_split([first, second], inputs, references).exact
    check = check_split([first, second], inputs, wrong)
    assert not check.exact
    assert 0 < check.largest_error < 1e-4
    swapped = check_split([second, first], inputs, references)
    assert swapped.largest_error > 1e-2


class _Stateful(nn.Module):
    """Sums up what it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))
        self.linear = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add the sum."""
        return self.linear(x) + self.seen.add_(x.abs().max())


def test_the_gate_refuses_a_model_that_changes_its_state() -> None:
    model = _Stateful().eval().requires_grad_(False)
    inputs = [torch.randn(2, 4)]
    captured = capture(model, inputs[0])
    with pytest.raises(PartitionError, match="seen"):
        check_split(split(captured, [FIRST]), inputs, [whole(model, inputs[0])])


def test_unknown_and_disordered_cuts_are_refused_with_what_is_allowed() -> None:
    captured = captured_at("resnet18")
    with pytest.raises(PartitionError, match=r"'layer1\.9'.*close: .*layer1\.0.*@first.*@last"):
        split(captured, ["layer1.9"])
    for names in (("layer2.0", "layer1.0"), ("layer1.0", "layer1.0"), (FIRST, "conv1")):
        with pytest.raises(PartitionError, match="not in the order"):
            split(captured, names)
    with pytest.raises(PartitionError, match=r"'layer'.*block, op"):
        find_cuts(captured, "layer")


def test_a_cut_table_holds_what_planning_needs() -> None:
    model = zoo.build("resnet18", seed=0, input_shape=(3, 64, 64))
    table = cut_table(model, "resnet18", "block", TensorSpec((2, 3, 64, 64), "float32"))
    assert table.names == tuple(RESNET18_BLOCKS)
    assert table.crossing("layer1.0") == (TensorSpec((2, 64, 16, 16), "float32"),)
    assert table.crossing(LAST) == (TensorSpec((2, 3, 64, 64), "float32"),)
    assert table.output == (TensorSpec((2, 1000), "float32"),)
    assert table.forward_ns > 0

"""Models that write to their tensors: stages return the same and never write to what they take."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from paretopipe_worker.cuts import FIRST, LAST, InputSpec
from paretopipe_worker.model.partition import (
    Partitioned,
    find_cuts,
    largest_error,
    split,
)
from paretopipe_worker.model.program import PartitionError
from paretopipe_worker.model.trial import cut_table
from tests.helpers.models import (
    checked,
    cut_names,
    place_names,
    prepared,
    programmed,
    quick,
    two_inputs,
)

pytestmark = pytest.mark.slow

Tensor = torch.Tensor


def _input_by_two_names(x: Tensor, layer: nn.Module) -> Tensor:
    y = torch.relu_(x)
    return layer(x + y)  # type: ignore[no-any-return]


def _a_view_then_all(x: Tensor, layer: nn.Module) -> Tensor:
    y = layer(x)
    y.view(-1).mul_(2)
    return torch.sin(y) + x


def _all_then_a_view(x: Tensor, layer: nn.Module) -> Tensor:
    y = layer(x)
    turned = y.t()
    y.add_(1)
    return torch.cos(turned).t() @ torch.ones(4, 4) + y


def _a_part(x: Tensor, layer: nn.Module) -> Tensor:
    y = layer(x)
    y[:, 1:3] = layer(x)[:, :2] * 3
    return layer(torch.tanh(y))  # type: ignore[no-any-return]


def _a_part_of_the_input(x: Tensor, layer: nn.Module) -> Tensor:
    x[:, 0].mul_(5)
    return layer(torch.tanh(layer(x)))  # type: ignore[no-any-return]


def _chunks(x: Tensor, layer: nn.Module) -> Tensor:
    low, high = layer(x).chunk(2, 1)
    low.add_(high)
    return layer(torch.cat([low.relu_(), high], 1))  # type: ignore[no-any-return]


def _a_residual(x: Tensor, layer: nn.Module) -> Tensor:
    y = torch.relu(layer(x))
    kept = y
    z = layer(y).relu_()
    z += kept
    kept = z.clone()
    return layer(z.mul_(2)) - kept  # type: ignore[no-any-return]


def _what_is_carried(x: Tensor, layer: nn.Module) -> Tensor:
    early = torch.sin(layer(x))
    late = layer(torch.cos(layer(early)))
    early.mul_(late)
    return layer(early) + late  # type: ignore[no-any-return]


def _a_list(x: Tensor, layer: nn.Module) -> Tensor:
    made = x.new_zeros(x.shape)
    for n in range(4):
        made[:, n] = layer(x)[:, 3 - n]
    return layer(made)  # type: ignore[no-any-return]


def _made_without_the_input(x: Tensor, layer: nn.Module) -> Tensor:
    made = torch.zeros(2, 4)
    made[:, 0].add_(x[:, 1])
    return layer(torch.relu(layer(made)))  # type: ignore[no-any-return]


def _a_copy_of_a_table(x: Tensor, layer: nn.Module) -> Tensor:
    table = layer.bias.clone()  # type: ignore[operator]
    table[:2] += x[0, :2]
    return layer(torch.relu(layer(x)) + table)  # type: ignore[no-any-return]


def _a_table_that_is_held(x: Tensor, layer: nn.Module) -> Tensor:
    layer.bias[:2] = x[0, :2]  # type: ignore[index,operator]
    return torch.sin(torch.relu(layer(x)))


def _what_is_returned(x: Tensor, layer: nn.Module) -> Tensor:
    made = torch.zeros(2, 4)
    for n in range(4):
        made[:, n] = layer(x)[:, 3 - n]
    return made


def _a_table_alone(x: Tensor, layer: nn.Module) -> Tensor:
    table = torch.arange(4.0)
    table[1:].mul_(3)
    table += 1
    return layer(torch.relu(layer(x)) * table)  # type: ignore[no-any-return]


def _what_is_given_by_name(x: Tensor, layer: nn.Module) -> Tensor:
    made = torch.empty(2, 4)
    torch.add(x, 1, out=made)
    return layer(torch.relu(layer(made)))  # type: ignore[no-any-return]


def _what_an_expanded_tensor_shows(x: Tensor, layer: nn.Module) -> Tensor:
    y = torch.sin(x)
    wide, windows = y[:1].expand(2, 4), y.view(-1).unfold(0, 4, 3)
    z = layer(y)
    y[0, 0] = 7
    return layer(layer(z * wide) + wide + windows)  # type: ignore[no-any-return]


WRITING: tuple[Callable[[Tensor, nn.Module], Tensor], ...] = (
    _input_by_two_names,
    _a_view_then_all,
    _all_then_a_view,
    _a_part,
    _a_part_of_the_input,
    _chunks,
    _a_residual,
    _what_is_carried,
    _a_list,
    _made_without_the_input,
    _a_copy_of_a_table,
    _a_table_that_is_held,
    _what_is_returned,
    _a_table_alone,
    _what_is_given_by_name,
    _what_an_expanded_tensor_shows,
)


class _Writing(nn.Module):
    """Runs one of them."""

    def __init__(self, write: Callable[[Tensor, nn.Module], Tensor]) -> None:
        super().__init__()
        self.layer, self.write = nn.Linear(4, 4), write

    def forward(self, x: Tensor) -> Tensor:
        """Shape (batch, 4) to the same."""
        return self.write(x, self.layer)


@pytest.mark.parametrize("write", WRITING, ids=lambda write: write.__name__.strip("_"))
def test_stages_of_a_model_that_writes_are_exact_and_write_to_nothing_they_take(
    write: Callable[[Tensor, nn.Module], Tensor],
) -> None:
    captured, inputs, references = prepared(_Writing(write), torch.randn(2, 4))
    assert all(map(torch.equal, captured.whole(inputs[0]), references[0]))
    given = [tensor.clone() for tensor in inputs]
    held = {name: tensor.clone() for name, tensor in captured.tensors.items()}
    for name in (FIRST, *place_names(captured), LAST):
        assert checked(split(captured, [name]), inputs, references).exact, name
        _assert_keeps(captured, [name], inputs[0], references[0])
    assert all(map(torch.equal, inputs, given))
    assert all(torch.equal(captured.tensors[name], tensor) for name, tensor in held.items())


def _assert_keeps(
    captured: Partitioned, names: list[str], tensor: Tensor, wanted: tuple[Tensor, ...]
) -> None:
    """Run the stages twice on memory that they share, as on one host; it must not change."""
    for _ in range(2):
        crossing: tuple[Tensor, ...] = (tensor,)
        taken: list[tuple[Tensor, Tensor]] = []
        for stage in split(captured, names):
            if stage is not None:
                taken += [(each, each.clone()) for each in crossing]
                with torch.inference_mode():
                    crossing = stage(*crossing)
        assert largest_error(crossing, wanted) == 0.0
        assert all(torch.equal(each, before) for each, before in taken), names


@pytest.mark.parametrize("write", [_a_part, _chunks, _a_list], ids=lambda w: w.__name__.strip("_"))
def test_no_cut_lies_where_memory_that_lives_is_still_to_be_written_through_a_view(
    write: Callable[[Tensor, nn.Module], Tensor],
) -> None:
    captured = programmed(_Writing(write).eval(), torch.randn(2, 4))
    operations = captured.program.operations
    ends = {place.end for place in captured.places}
    writing = [n for n, each in enumerate(operations) if each.writes]
    for number in writing:
        [written] = operations[number].writes
        storage = next(each.storage for each in operations if each.name == written)
        born = next(n for n, each in enumerate(operations) if each.storage == storage)
        assert ends.isdisjoint(range(born + 1, number + 1))


def test_a_tensor_under_two_names_crosses_once() -> None:
    captured, inputs, references = prepared(_Writing(_input_by_two_names), torch.randn(2, 4))
    assert cut_names(captured, "op") == [":relu", ":add"]
    for cut in find_cuts(captured, "op"):
        assert len(cut.tensors) == 1
        assert checked(split(captured, [cut.name]), inputs, references).exact


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "densenet121"])
def test_stages_of_classifiers_reuse_their_own_memory_and_no_other(name: str) -> None:
    inputs = two_inputs(name, size=64)
    captured = programmed(quick(name), *inputs)
    assert any(operation.in_place for operation in captured.program.operations)
    reference = captured.whole(inputs[0])
    for names in (place_names(captured)[10:11], place_names(captured)[-3:-1]):
        _assert_keeps(captured, names, inputs[0], reference)


class _Stateful(nn.Module):
    """Sums up what it has seen."""

    input_shape = (4,)

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Add the sum."""
        return self.linear(x) + self.seen.add_(x.abs().max())  # type: ignore[no-any-return,operator]


def test_a_model_that_changes_its_state_is_refused_with_the_names_of_what_it_changes() -> None:
    model = _Stateful().eval().requires_grad_(False)
    with pytest.raises(PartitionError, match=r"^model 'sums': the model changes seen as it runs"):
        cut_table(model, "sums", "op", [InputSpec((2, 4), "float32")])

"""Where models can be cut: names of places, blocks, and what crosses."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from paretopipe_worker.cuts import FIRST, LAST
from paretopipe_worker.model.blocks import block_paths
from paretopipe_worker.model.partition import Partitioned, find_cuts, split
from paretopipe_worker.model.zoo import skeleton
from tests.helpers import networks
from tests.helpers.models import (
    PAPER,
    RESNET18_BLOCKS,
    captured_at,
    checked,
    cut_names,
    place_names,
    prepared,
    programmed,
    smallest,
)

pytestmark = pytest.mark.slow

CUT_COUNTS = {
    "mobilenet_v2": (20, 70),
    "resnet18": (13, 21),
    "resnet50": (21, 37),
    "alexnet": (18, 18),
    "vgg16": (36, 36),
    "inception_v3": (19, 29),
}
"""Block and op cuts of the paper's models. A first prototype listed 223 op cuts, with the
dropouts and the `flatten` of each, which compute nothing."""


@pytest.mark.parametrize("name", PAPER)
def test_numbers_of_cuts_and_unique_names(name: str) -> None:
    captured = captured_at(name, size=smallest(name))
    block, op = cut_names(captured, "block"), cut_names(captured, "op")
    assert (len(block), len(op)) == CUT_COUNTS[name]
    assert len(set(place_names(captured))) == len(place_names(captured))
    assert [cut for cut in op if cut in block] == block


def test_blocks_are_named_by_module_path() -> None:
    mobilenet = cut_names(captured_at("mobilenet_v2", size=smallest("mobilenet_v2")), "block")
    assert mobilenet == [*(f"features.{i}" for i in range(19)), "classifier.0"]
    resnet = cut_names(captured_at("resnet18", size=smallest("resnet18")), "block")
    assert resnet == RESNET18_BLOCKS


UNITS = {
    "vit_b_32": [f"encoder.layers.encoder_layer_{n}" for n in range(12)],
    "swin_v2_t": [
        f"features.{stage}.{block}"
        for stage, blocks in ((1, 2), (3, 2), (5, 6), (7, 2))
        for block in range(blocks)
    ],
    "densenet121": [
        f"features.denseblock{block}.denselayer{layer}"
        for block, layers in enumerate((6, 12, 24, 16), 1)
        for layer in range(1, layers + 1)
    ],
    "maxvit_t": [
        f"blocks.{block}.layers.{layer}"
        for block in range(4)
        for layer in range((2, 2, 5, 2)[block])
    ],
}
"""The units that each of these repeats."""


@pytest.mark.parametrize("name", UNITS)
def test_the_units_that_a_model_repeats_are_blocks_wherever_they_are_nested(name: str) -> None:
    paths = list(block_paths(skeleton(name, seed=0)))
    assert [path for path in paths if path in UNITS[name]] == UNITS[name]
    assert len(set(paths)) == len(paths)


def test_a_language_model_is_cut_behind_each_layer_and_its_mask_crosses_too() -> None:
    captured, inputs, _ = prepared(networks.Language(), torch.randn(2, 6, 8))
    layers = [f"encoder.layer.{n}" for n in range(3)]
    cuts = {cut.name: cut.tensors for cut in find_cuts(captured, "block")}
    assert [name for name in cuts if name in layers] == layers
    assert [[t.shape for t in cuts[name]] for name in layers] == [
        [(2, 1, 1, 6), (2, 6, 8)],
        [(2, 1, 1, 6), (2, 6, 8)],
        [(2, 6, 8)],
    ]
    assert captured.program.returned == ("['hidden']", "['pooled']")
    assert _exact_everywhere(captured, inputs)


def test_a_detector_is_cut_behind_each_layer_with_all_that_later_layers_take() -> None:
    captured, inputs, _ = prepared(networks.Detector(), torch.randn(2, 3, 32, 32))
    cuts = {cut.name: len(cut.tensors) for cut in find_cuts(captured, "block")}
    layers = {f"model.{n}": number for n, number in enumerate((1, 1, 2, 2, 3, 2))}
    assert {name: number for name, number in cuts.items() if name in layers} == layers
    assert {"model.1.m.0": 3, "model.1.m.1": 4}.items() <= cuts.items()
    assert captured.program.returned == ("[0]", "[1][0]", "[1][1]")
    assert _exact_everywhere(captured, inputs)


class _Unit(nn.Module):
    """A layer and what follows it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape (batch, 4) to the same."""
        return self.last(self.first(x))  # type: ignore[no-any-return]


class _Twice(nn.Module):
    """Runs its layers two times."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.head = nn.ModuleList(_Unit() for _ in range(2)), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape (batch, 4) to the same."""
        for layer in (*self.layers, *self.layers):
            x = layer(x)
        return self.head(x)  # type: ignore[no-any-return]


def test_a_block_that_runs_twice_is_cut_behind_each_of_its_calls() -> None:
    captured, inputs, _ = prepared(_Twice(), torch.randn(2, 4))
    ends = [f"layers.{n}{call}" for call in ("", "#2") for n in (0, 1)]
    assert cut_names(captured, "block") == ends
    assert cut_names(captured, "op") == [
        *("layers.0.first", "layers.0", "layers.1.first", "layers.1"),
        *("layers.0.first#2", "layers.0#2", "layers.1.first#2", "layers.1#2"),
    ]
    assert _exact_everywhere(captured, inputs)


class _Skip(nn.Module):
    """Adds what the first layer gives to what the third does."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape (batch, 4) to the same."""
        early = torch.relu(self.first(x))
        return torch.relu(self.third(torch.relu(self.second(early)))) + early


def test_a_value_that_only_a_later_stage_uses_is_carried_through_the_middle_one() -> None:
    captured, inputs, references = prepared(_Skip(), torch.randn(2, 4))
    numbers = {place.name: len(place.values) for place in captured.places}
    assert numbers == {"first": 1, ":relu": 1, "second": 2, ":relu#2": 2, "third": 2, ":relu#3": 2}
    assert cut_names(captured, "op") == ["first", ":relu"]
    for names in itertools.combinations(numbers, 2):
        stages = split(captured, names)
        assert checked(stages, inputs, references).exact, names
    middle = split(captured, ["second", "third"])[1]
    assert middle is not None
    early, computed = torch.randn(2, 4), torch.randn(2, 4)
    carried, given = middle(early, computed)
    assert carried is early
    weight, bias = (captured.tensors[f"third.{name}"] for name in ("weight", "bias"))
    assert torch.equal(given, nn.functional.linear(computed.relu(), weight, bias))


def test_views_are_repeated_behind_a_cut_and_not_sent() -> None:
    class Viewed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.linear(x)
            turned, flat = y.transpose(1, 2), y.flatten(1)
            return turned.sin().sum((1, 2)) + flat.cos().sum(1) + y.tanh().sum((1, 2))

    captured, inputs, references = prepared(Viewed(), torch.randn(2, 4, 6))
    first = captured.places[0]
    assert (first.name, len(first.values)) == ("linear", 1)
    assert [len(cut.tensors) for cut in find_cuts(captured, "op")] == [1]
    assert checked(split(captured, ["linear"]), inputs, references).exact


def _exact_everywhere(captured: Partitioned, inputs: list[torch.Tensor]) -> bool:
    """Whether the stages at every place and endpoint are exact."""
    references = [captured.whole(tensor) for tensor in inputs]
    names = [FIRST, *place_names(captured), LAST]
    return all(checked(split(captured, [name]), inputs, references).exact for name in names)


def test_the_batch_size_does_not_change_where_a_model_is_cut() -> None:
    model = networks.Detector().eval()
    one, three = (programmed(model, torch.randn(n, 3, 32, 32)) for n in (1, 3))
    assert place_names(one) == place_names(three)

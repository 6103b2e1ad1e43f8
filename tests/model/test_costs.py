"""What the stages before and behind a cut cost, held against what is known of the models."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from paretopipe_worker.model.capture import capture
from paretopipe_worker.model.costs import footprint, sides
from paretopipe_worker.model.partition import Partitioned
from paretopipe_worker.model.zoo import skeleton


def captured(model: nn.Module, tensor: torch.Tensor) -> Partitioned:
    """A model as a program with its tensors."""
    found = capture(model.eval().requires_grad_(False), [tensor])
    return Partitioned(found.program, found.tensors)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "gmac", "parameters"),
    [("resnet18", 1.814, 11.690e6), ("mobilenet_v2", 0.301, 3.505e6)],
)
def test_arithmetic_and_parameters_are_what_torchvision_says_at_every_cut(
    name: str, gmac: float, parameters: float
) -> None:
    tensor = torch.zeros(1, 3, 224, 224)
    model = skeleton(name, seed=0).to_empty(device="cpu")
    program = captured(model, tensor)
    buffers = sum(t.nbytes for key, t in program.tensors.items() if "running_" in key)
    for before, behind in sides(program, [tensor]).values():
        assert before.flops + behind.flops == pytest.approx(2e9 * gmac, rel=0.01)
        held = before.held_bytes + behind.held_bytes - buffers
        assert held == pytest.approx(4 * parameters, rel=0.01)


def test_memory_is_that_of_the_values_alive_at_once() -> None:
    wide = nn.Sequential(nn.Linear(10, 1000), nn.ReLU(inplace=True), nn.Linear(1000, 10), nn.Tanh())
    found = sides(captured(wide, torch.zeros(1, 10)), [torch.zeros(1, 10)])
    before, behind = found["1"]
    # Ten numbers come in and a thousand are made, over which ReLU writes.
    assert before.peak_bytes == 4 * (10 + 1000)
    # A stage does not write over what arrived; behind its last use it counts no more.
    assert behind.peak_bytes == 4 * (1000 + 10)
    assert found["2"][1].peak_bytes == 4 * (10 + 10)


def test_a_value_that_is_kept_for_later_counts_all_the_time() -> None:
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(100, 100), nn.Linear(100, 100)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.first(x)
            return torch.tanh(self.second(torch.relu(y))) + y

    found = sides(captured(Skip(), torch.zeros(1, 100)), [torch.zeros(1, 100)])
    before, behind = found["second"]
    # The skip, what the second layer takes, and what it makes.
    assert before.peak_bytes == 4 * 300
    # Both cross; one more is made.
    assert behind.peak_bytes == 4 * 300


class _Tied(nn.Module):
    """One layer works first and last, and a skip leads over all between."""

    def __init__(self) -> None:
        super().__init__()
        self.ends = nn.Linear(20, 20)
        self.middle = nn.Sequential(nn.Linear(20, 80), nn.ReLU(inplace=True), nn.Linear(80, 20))
        self.register_buffer("scale", torch.full((20,), 2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.ends(x) * self.scale
        seen = first.view(2, 20, 1)
        turned = torch.tanh(self.middle(first)) + seen.sum(2)
        return self.ends(turned * self.scale + seen[:, :1, 0])


def test_few_figures_tell_what_every_stage_between_two_cuts_needs() -> None:
    model = captured(_Tied(), torch.zeros(2, 20))
    names = [place.name for place in model.places]
    assert len(names) >= 6
    every = footprint(model, names)
    order = ("@last", *names, "@first")
    sizes = {name: held.layout.nbytes for name, held in model.program.tensors.items()}
    reached = []
    for start, stop in itertools.combinations(range(len(order)), 2):
        ends, parts = (order[start], order[stop]), range(start, stop)
        held = set(model.held_between(*ends))
        assert every.held_bytes(parts) == sum(sizes[name] for name in held), ends
        assert every.all_held(parts) == (held == sizes.keys()), ends
        # The same stage as a part of its own.
        own = footprint(model, [name for name in ends if name in names])
        exact = own.peaks[0 if start == 0 else 1]
        assert exact <= every.peak_bytes(parts) <= 2 * exact, ends
        reached.append(exact == every.peak_bytes(parts))
    # Only a stage that works in place on what it made itself needs less.
    assert sum(reached) > len(reached) / 2
    # The tied layer is held at both ends and not between them.
    [between] = [n for n, name in enumerate(order) if name == "middle.0"]
    assert every.held_bytes([between]) < sizes["ends.weight"] + sizes["middle.2.weight"]
    assert every.held_bytes([]) == every.peak_bytes([]) == 0

"""Models that are drawn: views, writes through views, and tensors by several names."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional

from paretopipe_worker.model.partition import largest_error, split, whole
from tests.helpers.models import checked, place_names, programmed

pytestmark = pytest.mark.slow

Tensor = torch.Tensor
_MODELS = 30


def _half_of_a_part(a: Tensor, _: Tensor) -> None:
    a[:, 1].mul_(0.5)


def _a_row(a: Tensor, b: Tensor) -> None:
    a[2] = b.sin()[1]


def _half_of_a_split(a: Tensor, _: Tensor) -> Tensor:
    first, second = a.split(2, 0)
    first.mul_(0.9)
    return torch.cat([second, first.cos()], 0)


def _rows_of_zeros(a: Tensor, _: Tensor) -> Tensor:
    made = torch.zeros(4, 4)
    made[1:] = a[:3]
    return made


def _all(a: Tensor, b: Tensor) -> None:
    a.add_(b.sin().clone())


STEPS: tuple[Callable[[Tensor, Tensor], Tensor | None], ...] = (
    _half_of_a_part,
    _a_row,
    _half_of_a_split,
    _rows_of_zeros,
    _all,
    lambda a, b: torch.relu(a),
    lambda a, b: torch.relu_(a),
    lambda a, b: a + b.sin(),
    lambda a, b: a.t(),
    lambda a, b: a.contiguous(),
    lambda a, b: a.view_as(a),
    lambda a, b: a[:1].expand(4, 4),
    lambda a, b: a.reshape(2, 8).clone().view(4, 4),
    lambda a, b: torch.cat(a.chunk(2, 1)[::-1], 1),
    lambda a, b: torch.zeros(4, 4).add_(a * 0.1),
    lambda a, b: functional.dropout(a, 0.3, training=False),
    lambda a, b: a.unbind(1)[1][None].repeat(4, 1),
)
"""Each takes two of the tensors that there are, all of shape (4, 4), and may add one."""


class _Drawn(nn.Module):
    """Runs steps that a seed decides."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed, self.layer = seed, nn.Linear(4, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Shape (4, 4) to the sum of all tensors there are, and the last ones."""
        draw = random.Random(self.seed)
        there = [x]
        for _ in range(draw.randint(4, 12)):
            step = draw.choice((*STEPS, lambda a, b: self.layer(a)))
            made = step(draw.choice(there), draw.choice(there))
            there += [] if made is None else [made]
        total = torch.stack([each.tanh() for each in there]).sum(0)
        return (total, *there[-2:]) if draw.random() < 0.5 else (total,)


def test_stages_of_drawn_models_are_exact_everywhere_and_write_to_nothing_they_take() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    tried = 0
    while tried < _MODELS:
        seed += 1
        torch.manual_seed(seed)
        model = _Drawn(seed).eval().requires_grad_(False)
        inputs = [torch.randn(4, 4) for _ in range(2)]
        try:
            references = [tuple(each.clone() for each in whole(model, tensor)) for tensor in inputs]
        except RuntimeError:
            continue  # torch itself refuses to write to some of them
        tried += 1
        _assert_exact(model, inputs, references, seed)


def _assert_exact(
    model: nn.Module, inputs: list[Tensor], references: list[tuple[Tensor, ...]], seed: int
) -> None:
    """Run the program and its stages at every place, with copies between them and without."""
    captured = programmed(model, *inputs)
    for tensor, wanted in zip(inputs, references, strict=True):
        given = tensor.clone()
        assert largest_error(captured.whole(tensor), wanted) == 0, seed
        assert torch.equal(tensor, given), seed
    for name in place_names(captured):
        stages = split(captured, [name])
        assert checked(stages, inputs, references).exact, (seed, name)
        first, second = stages
        assert first is not None and second is not None
        with torch.inference_mode():
            crossing = first(inputs[0])
            before = [each.clone() for each in crossing]
            assert largest_error(second(*crossing), references[0]) == 0, (seed, name)
        assert all(map(torch.equal, crossing, before)), (seed, name)

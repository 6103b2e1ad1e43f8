"""Stages as modules of their own: the bits of the stages that are measured."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
import torch
from torch import nn

from paretopipe_worker.model.capture import capture
from paretopipe_worker.model.partition import Partitioned, split
from paretopipe_worker.model.standalone import StageModule, exported
from tests.helpers.travellers import Scattered, Strided


@pytest.mark.parametrize(
    ("model", "shape"), [(Strided(), (2, 3, 9, 9)), (Scattered(), (2, 4))], ids=["strided", "held"]
)
def test_at_every_place_stages_return_the_bits_of_those_that_are_measured(
    model: nn.Module, shape: Sequence[int]
) -> None:
    given = (torch.randn(shape, generator=torch.Generator().manual_seed(1)),)
    found = capture(model.eval().requires_grad_(False), given)
    parts = Partitioned(found.program, found.tensors)
    entry = tuple(value.name for value in parts.program.inputs)
    assert len(parts.places) > 3
    for place in parts.places:
        crossing = given
        ends = itertools.pairwise((entry, place.values, parts.program.outputs))
        for stage, (taken, left) in zip(split(parts, [place.name]), ends, strict=True):
            module = StageModule(parts.program, parts.tensors, taken, left)
            made = exported(module, crossing).module()
            with torch.inference_mode():
                wanted = stage(*(each.clone() for each in crossing))
                own = made(*(each.clone() for each in crossing))
            assert all(map(torch.equal, own, wanted)), place.name
            crossing = wanted

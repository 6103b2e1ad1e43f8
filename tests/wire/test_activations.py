"""Wire formats on what really crosses: the activations of models, at every cut."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import pytest
import torch

from paretopipe_worker.cuts import InputSpec
from paretopipe_worker.model import trial, zoo
from paretopipe_worker.model.partition import Partitioned
from paretopipe_worker.model.sources import Source
from paretopipe_worker.wire.formats import packer
from paretopipe_worker.wire_listing import crossings
from tests import ROOT
from tests.helpers.wire_bounds import excess, specs_of

OWN = ROOT / "experiments" / "models"
SMALL = [InputSpec((2, 3, 32, 32), "float32")]
MODELS = {
    "resnet18": (Source.of("resnet18"), "block", SMALL),
    "mobilenet_v2": (Source.of("mobilenet_v2"), "op", SMALL),
    "squeezenet1_1": (Source.of("squeezenet1_1"), "block", [InputSpec((1, 3, 64, 64), "float32")]),
    "shufflenet_v2_x0_5": (Source.of("shufflenet_v2_x0_5"), "block", SMALL),
    # Several tensors cross at once.
    "unet": (Source("unet", factory="own:UNet", path=OWN, arguments={"width": 4}), "block", SMALL),
    # Whole numbers go in, and a mask.
    "encoder": (
        Source("encoder", factory="own:Encoder", path=OWN),
        "op",
        [InputSpec((2, 9), "int64", 0, 1000), InputSpec((2, 9), "float32")],
    ),
}


@cache
def crossing(name: str) -> list[tuple[str, tuple[torch.Tensor, ...]]]:
    """What crosses each cut of a model."""
    source, granularity, taken = MODELS[name]
    model = zoo.build(source, seed=0, inputs=taken)
    table, captured = trial.cut_table(model, name, granularity, taken, max_tensors=4)
    with torch.inference_mode():
        found = crossings(Partitioned(captured.program, captured.tensors), table)
        # A later stage may write to memory that an earlier one gave.
        kept = [(cut, tuple(each.clone() for each in tensors)) for cut, tensors in found]
    assert [cut for cut, _ in kept] == ["@last", *table.names]
    for cut, tensors in kept:
        packer("fp32", table.crossing(cut)).pack(tensors)  # which holds them against the table
    return kept


def tried(model: str, name: str) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """Each cut's name, and of each of its tensors what arrived and what was sent."""
    for cut, tensors in crossing(model):
        made = packer(name, specs_of(tensors))
        message = made.pack(tensors)
        assert memoryview(message).nbytes <= made.most_bytes
        yield from ((cut, *pair) for pair in zip(made.unpack(message), tensors, strict=True))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("name", "bits"), [("int8", 8), ("int4", 4)])
def test_errors_are_within_half_a_step_at_every_cut(model: str, name: str, bits: int) -> None:
    worst = 0.0
    for cut, found, sent in tried(model, name):
        if not sent.is_floating_point():
            assert torch.equal(found, sent), f"{model} at {cut}"
            continue
        over = excess(found, sent, bits)
        assert over <= 1, f"{model} at {cut}: an error is {over} times what its scale allows"
        worst = max(worst, over)
    assert worst > 0.9, f"the bound is loose: the largest error is {worst} of it"


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", ["fp32", "zstd", "lz4"])
def test_lossless_formats_are_exact_at_every_cut(model: str, name: str) -> None:
    for cut, found, sent in tried(model, name):
        assert torch.equal(found, sent), f"{model} at {cut}"


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("name", "eps"), [("fp16", 2**-11), ("bf16", 2**-8)])
def test_narrow_formats_round_at_every_cut(model: str, name: str, eps: float) -> None:
    for cut, found, sent in tried(model, name):
        # Below the smallest normal float16 the steps no longer shrink.
        allowed = eps * sent.double().abs() + (2**-25 if name == "fp16" else 0)
        assert ((found.double() - sent.double()).abs() <= allowed).all(), f"{model} at {cut}"

"""Stages that are cut out of one exported graph: they return what torch's stages return."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import onnx
import pytest
import torch
from torch import nn

from paretopipe_worker.cuts import FIRST, LAST, InputSpec
from paretopipe_worker.model import onnx_graph, quantising
from paretopipe_worker.model.capture import capture
from paretopipe_worker.model.inputs import items
from paretopipe_worker.model.onnx_graph import Graph, graph
from paretopipe_worker.model.partition import Partitioned, largest_error, split
from paretopipe_worker.model.standalone import OnnxError, onnx_stage
from tests.helpers.models import captured_at, cut_names, two_inputs
from tests.helpers.travellers import Scattered, Strided


class Tied(nn.Module):
    """Two layers of one weight, a stage that computes nothing, and a value that goes on and out."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.idle = nn.Linear(8, 8), nn.Dropout()

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Shape (batch, 8) to a list of such tensors and one of whole numbers."""
        y = self.idle(torch.relu(self.layer(x)))
        table = torch.arange(8.0) * 2
        z = (self.layer(y).T + x.T).T + table
        return [z * y, y, y, x, z.argmax(1)]


def parts_of(model: nn.Module, shape: Sequence[int]) -> tuple[Partitioned, torch.Tensor]:
    """A captured model and an input for it."""
    given = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    found = capture(model.eval().requires_grad_(False), (given,))
    return Partitioned(found.program, found.tensors), given


def pairs(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Neighbouring cuts, and those that are furthest apart."""
    yield from itertools.pairwise((LAST, *names, FIRST))
    yield from ((LAST, name) for name in names)
    yield from ((name, FIRST) for name in names)


@pytest.mark.parametrize(
    ("model", "shape"),
    [(Strided(), (2, 3, 9, 9)), (Scattered(), (2, 4)), (Tied(), (2, 8))],
    ids=["strided", "held", "tied"],
)
def test_between_any_two_places_a_stage_returns_what_torchs_stage_returns(
    model: nn.Module, shape: Sequence[int]
) -> None:
    parts, given = parts_of(model, shape)
    names = [place.name for place in parts.places]
    assert len(names) > 3
    made = graph(parts, names, [given])
    for before, after in pairs(names):
        first, middle, _ = split(parts, [before, after])
        with torch.inference_mode():
            taken = first(given.clone()) if first else (given,)
            wanted = middle(*(each.clone() for each in taken)) if middle else taken
        data = made.stage(before, after)
        onnx.checker.check_model(data, full_check=True)
        returned = onnx_stage(data)(*taken)
        assert [each.dtype for each in returned] == [each.dtype for each in wanted]
        assert largest_error(returned, wanted) <= 1e-5, (before, after)
        says = onnx.load_from_string(data).graph
        assert [each.name for each in says.input] == [f"input_{n}" for n in range(len(taken))]
        assert [each.name for each in says.output] == [f"output_{n}" for n in range(len(wanted))]


def weights(data: bytes) -> int:
    """Bytes of the tensors of an ONNX file."""
    return sum(
        onnx.numpy_helper.to_array(t).nbytes for t in onnx.load_from_string(data).graph.initializer
    )


def test_a_classifier_is_exported_once_and_its_stages_hold_their_own_tensors_alone() -> None:
    parts, (given, other) = captured_at("mobilenet_v2"), two_inputs("mobilenet_v2")
    names = cut_names(parts, "block")
    made = graph(parts, names, [given])
    whole = weights(made.stage(LAST, FIRST))
    for name in names:
        front, back = made.stage(LAST, name), made.stage(name, FIRST)
        assert weights(front) + weights(back) <= 1.001 * whole
        with torch.inference_mode():
            wanted = parts.whole(other)
        assert largest_error(onnx_stage(back)(*onnx_stage(front)(other)), wanted) <= 1e-4


@pytest.fixture(scope="module")
def in_eight_bits() -> tuple[Partitioned, Graph]:
    """A quantised classifier."""
    parts, inputs = captured_at("resnet18"), two_inputs("resnet18")
    made = graph(parts, cut_names(parts, "op"), inputs[:1])
    return parts, quantising.quantised(made, [(each,) for each in inputs])


def test_stages_in_eight_bits_return_together_exactly_what_the_whole_returns(
    in_eight_bits: tuple[Partitioned, Graph],
) -> None:
    parts, made = in_eight_bits
    given, _ = two_inputs("resnet18")
    names = cut_names(parts, "op")
    whole = onnx_stage(made.stage(LAST, FIRST))(given)
    with torch.inference_mode():
        # It is not float32 under another name, and not noise either.
        assert 1e-4 < largest_error(whole, parts.whole(given)) < 0.2
    for name in names:
        crossing = onnx_stage(made.stage(LAST, name))(given)
        assert {each.dtype for each in crossing} == {torch.float32}
        assert largest_error(onnx_stage(made.stage(name, FIRST))(*crossing), whole) == 0.0, name


def test_a_stage_in_eight_bits_computes_in_eight_bits_from_its_first_operation_on(
    in_eight_bits: tuple[Partitioned, Graph],
) -> None:
    _, made = in_eight_bits
    nodes = onnx.load_from_string(made.stage("layer2.0", FIRST)).graph.node
    assert {node.op_type for node in nodes if "input_0" in node.input} == {"QuantizeLinear"}


def test_ranges_are_calibrated_on_the_same_inputs_every_time_and_not_on_those_that_are_sent() -> (
    None
):
    parts = captured_at("resnet18")
    [value] = parts.program.inputs
    specs = [InputSpec(value.layout.shape, "float32")]
    first, again = (quantising.calibration(specs, seed=4) for _ in range(2))
    assert len(first) == quantising.CALIBRATED
    assert all(torch.equal(a, b) for (a,), (b,) in zip(first, again, strict=True))
    sent = items(specs, seed=4)
    assert not any(torch.equal(a, b) for (a,) in first for (b,) in sent)
    assert quantising.calibration(specs, seed=4, sent=sent) == sent


def test_what_has_no_room_in_a_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    parts, given = parts_of(Tied(), (2, 8))
    made = graph(parts, [parts.places[0].name], [given])
    monkeypatch.setattr(onnx_graph, "MOST_BYTES", 100)
    monkeypatch.setattr(quantising, "MOST_BYTES", 100)
    with pytest.raises(OnnxError, match="a file of ONNX has room for 0 MB"):
        made.stage(LAST, FIRST)
    with pytest.raises(OnnxError, match="and ONNX Runtime quantises up to 0 MB"):
        quantising.quantised(made, [(given,)])


def test_an_operator_that_onnx_lacks_is_named() -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.special.bessel_j0(x) + 1

    parts, given = parts_of(Odd(), (2, 8))
    with pytest.raises(OnnxError, match=r"nothing for the operator prims::bessel_j0\.default"):
        graph(parts, [], [given])

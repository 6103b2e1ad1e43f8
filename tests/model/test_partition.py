"""The stages of a split compute what the model computes, and the gate sees where they do not."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from paretopipe_worker.__main__ import main
from paretopipe_worker.cuts import FIRST, LAST, InputSpec, TensorSpec
from paretopipe_worker.model import flat, zoo
from paretopipe_worker.model.partition import Partitioned, find_cuts, noting, split, whole
from paretopipe_worker.model.program import PartitionError
from paretopipe_worker.model.trial import cut_table
from paretopipe_worker.plan import spec
from paretopipe_worker.prepare import prepare
from tests.helpers.models import (
    PAPER,
    RESNET18_BLOCKS,
    captured_at,
    checked,
    classifier,
    cut_names,
    half,
    place_names,
    prepared,
    programmed,
    quick,
    smallest,
    two_inputs,
)
from tests.helpers.tables import HOSTS

pytestmark = pytest.mark.slow


def _assert_exact(
    captured: Partitioned,
    inputs: list[torch.Tensor],
    cuts: list[str],
    references: list[tuple[torch.Tensor, ...]],
) -> None:
    """Compare the stages at each of the cuts with what is wanted, bit by bit."""
    checks = {cut: checked(split(captured, [cut]), inputs, references) for cut in cuts}
    assert checks
    assert {cut: check for cut, check in checks.items() if not check.exact} == {}


@pytest.mark.parametrize("name", PAPER)
def test_stages_are_exact_at_every_cut_and_endpoint(name: str) -> None:
    """The cuts of granularity op, among which those of granularity block are."""
    size = smallest(name)
    captured, inputs = captured_at(name, size=size), two_inputs(name, size=size)
    references = [whole(quick(name), tensor) for tensor in inputs]
    assert any(operation.native for operation in captured.program.operations)
    _assert_exact(captured, inputs, [FIRST, *cut_names(captured, "op"), LAST], references)


@pytest.mark.long
@pytest.mark.parametrize("name", PAPER)
def test_stages_are_exact_at_every_place_of_full_models_on_full_inputs(name: str) -> None:
    inputs = two_inputs(name)
    captured = programmed(classifier(name), *inputs)
    references = [whole(classifier(name), tensor) for tensor in inputs]
    _assert_exact(captured, inputs, place_names(captured), references)


@pytest.mark.parametrize("name", PAPER)
def test_stages_are_exact_at_sampled_places(name: str) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    captured, inputs = captured_at(name, 2, half(name)), two_inputs(name, 2, half(name))
    references = [captured.whole(tensor) for tensor in inputs]
    names = random.Random(seed).sample(place_names(captured), 3)
    _assert_exact(captured, inputs, names, references)


def test_three_stages_share_the_work_in_order() -> None:
    size = smallest("resnet18")
    inputs, captured = two_inputs("resnet18", size=size), captured_at("resnet18", size=size)
    references = [whole(quick("resnet18"), tensor) for tensor in inputs]
    for names, empty in (
        (("layer1.0", "layer3.0"), None),
        ((LAST, "layer2.1"), 0),
        (("layer2.1", "layer2.1"), 1),
        (("layer2.1", FIRST), 2),
    ):
        stages = split(captured, names)
        assert [stage is None for stage in stages] == [rank == empty for rank in range(3)]
        assert checked(stages, inputs, references).exact, names
    unused = [[stage is None for stage in split(captured, ends)] for ends in _endpoints()]
    assert unused == [[False, True, True], [True, False, True], [True, True, False]]


def test_a_noting_stage_returns_the_same_bits_and_calls_at_each_place() -> None:
    size = smallest("resnet18")
    captured, inputs = captured_at("resnet18", size=size), two_inputs("resnet18", size=size)
    names = cut_names(captured, "block")
    before, after = names[1], FIRST
    head, tail = split(captured, [before])
    assert head is not None and tail is not None
    notes: list[int] = []
    stage = noting(captured, before, after, names[2:], lambda: notes.append(time.perf_counter_ns()))
    with torch.inference_mode():
        given = head(inputs[0])
        begin_ns = time.perf_counter_ns()
        outputs = stage(*given)
        times = (begin_ns, *notes, time.perf_counter_ns())
        assert all(map(torch.equal, outputs, tail(*given)))
    assert len(notes) == len(names) - 2
    assert sorted(set(times)) == list(times), "a unit took no time, or they are out of order"
    with torch.inference_mode():
        silent = noting(captured, before, after, [], lambda: pytest.fail("there is no place"))
        assert all(map(torch.equal, silent(*given), tail(*given)))


def _endpoints() -> list[tuple[str, str]]:
    """Endpoints of three stages: all on the first, the second, the third."""
    return [(FIRST, FIRST), (LAST, FIRST), (LAST, LAST)]


def test_a_stage_holds_only_its_own_weights_under_their_own_names_and_copies_none() -> None:
    captured = captured_at("resnet18", size=smallest("resnet18"))
    entry = [value.name for value in captured.program.inputs]
    [place] = [place for place in captured.places if place.name == "layer2.0"]
    ends = [(entry, place.values), (place.values, captured.program.outputs)]
    own = [
        flat.held_by(captured.program, flat.needed(captured.program, taken, given), given)
        for taken, given in ends
    ]
    state = quick("resnet18").state_dict()
    counters = {name for name in state if name.endswith("batches_tracked")}
    assert {*own[0], *own[1]} == state.keys() - counters
    assert not {*own[0]} & {*own[1]}
    places = {name: captured.tensors[name].data_ptr() for part in own for name in part}
    assert places == {name: state[name].data_ptr() for name in places}
    stages = split(captured, ["layer2.0"])
    for stage, names in zip(stages, own, strict=True):
        held = [each for each in stage.__globals__.values() if isinstance(each, torch.Tensor)]  # type: ignore[union-attr]
        assert {each.data_ptr() for each in held} == {places[name] for name in names}


def test_a_stage_that_lacks_a_tensor_or_a_value_is_refused_by_its_name() -> None:
    captured, _, _ = prepared(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), torch.randn(2, 4))
    program = captured.program
    entry = [value.name for value in program.inputs]
    without = {name: held for name, held in captured.tensors.items() if name != "1.weight"}
    with pytest.raises(PartitionError, match=r"lacks the tensor '1\.weight'"):
        flat.build(program, without, entry, program.outputs)
    flat.build(program, without, entry, captured.places[0].values)
    with pytest.raises(PartitionError, match=rf"from nothing to .* also takes {entry[0]}"):
        flat.build(program, captured.tensors, [], program.outputs)


def test_a_stage_is_built_in_milliseconds() -> None:
    captured = captured_at("mobilenet_v2", size=smallest("mobilenet_v2"))
    times = []
    for name in cut_names(captured, "block"):
        start = time.thread_time()
        split(captured, [name])
        times.append(time.thread_time() - start)
    assert sorted(times)[len(times) // 2] < 2 * 0.020


def test_the_gate_sees_a_wrong_stage() -> None:
    captured, inputs, references = prepared(
        nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), torch.randn(2, 4)
    )
    first, second = split(captured, ["0"])
    wrong = [(reference[0] + 1e-6,) for reference in references]
    assert checked([first, second], inputs, references).exact
    check = checked([first, second], inputs, wrong)
    assert not check.exact
    assert 0 < check.largest_error < 1e-4
    swapped = checked([second, first], inputs, references)
    assert swapped.largest_error > 1e-2


def test_unknown_and_disordered_cuts_are_refused_with_what_is_allowed() -> None:
    captured = captured_at("resnet18", size=smallest("resnet18"))
    with pytest.raises(PartitionError, match=r"'layer1\.9'.*close: .*layer1\.0.*@first.*@last"):
        split(captured, ["layer1.9"])
    for names in (("layer2.0", "layer1.0"), ("conv1", LAST), (FIRST, "conv1")):
        with pytest.raises(PartitionError, match="not in the order"):
            split(captured, names)
    with pytest.raises(PartitionError, match=r"'layer'.*block, op"):
        find_cuts(captured, "layer")


def test_a_cut_table_holds_what_planning_needs() -> None:
    model = zoo.build("resnet18", seed=0, input_shape=(3, 64, 64))
    table, captured = cut_table(model, "resnet18", "block", [InputSpec((2, 3, 64, 64), "float32")])
    assert table.names == tuple(RESNET18_BLOCKS)
    assert table.crossing("layer1.0") == (TensorSpec((2, 64, 16, 16), "float32"),)
    assert table.crossing(LAST) == (TensorSpec((2, 3, 64, 64), "float32"),)
    assert table.output == (TensorSpec((2, 1000), "float32"),)
    assert table.forward_ns > 0
    assert table.program_error == 0.0
    assert len(captured.program.operations) > len(table.names)


DETECTOR = "tests.helpers.networks:Detector"


def test_at_granularity_op_as_many_tensors_cross_as_are_allowed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {}
    for most in (1, 2, 3):
        options = ["--granularity", "op", "--input", "3,32,32", "--json"]
        assert main(["cuts", DETECTOR, *options, "--max-tensors", str(most)]) == 0
        cuts = json.loads(capsys.readouterr().out)["cuts"][1:-1]
        assert max(len(cut["tensors"]) for cut in cuts) == most
        found[most] = [cut["name"] for cut in cuts]
    assert set(found[1]) < set(found[2]) < set(found[3])
    asked = {
        "models": [{"name": DETECTOR, "input": [3, 32, 32]}],
        "splits": {"granularity": "op", "max_tensors": 2},
    }
    made = prepare("test", spec.parse(asked), HOSTS, tmp_path, tmp_path, check=True)
    assert [list(table.names) for table in made.tables] == [found[2]]


class _Nearly(nn.Linear):
    """Computes a little more when it is captured, as a faster path for eager execution does."""

    more = 1e-6

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape (batch, 4) to the same."""
        y = super().forward(x)
        return y * (1 + self.more) if torch.compiler.is_exporting() else y


def test_a_program_that_rounds_otherwise_than_its_model_is_told_and_one_that_differs_refused() -> (
    None
):
    model = _Nearly(4, 4).eval().requires_grad_(False)
    table, captured = cut_table(model, "nearly", "op", [InputSpec((2, 4), "float32")])
    assert 0 < table.program_error <= 1e-5
    assert len(captured.program.operations) == 2
    model.more = 1e-4
    with pytest.raises(PartitionError, match=r"differ by 0\.0001 of .*\(allowed: 1e-05\)"):
        cut_table(model, "nearly", "op", [InputSpec((2, 4), "float32")])

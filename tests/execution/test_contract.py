"""The contract of every executor: what it returns, how long that stays, which times it tells."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from paretopipe_worker.cuts import FIRST, LAST
from paretopipe_worker.execution.api import Computed, Executor, Tensors
from paretopipe_worker.model.partition import largest_error
from paretopipe_worker.session.check import TOLERANCE
from tests.helpers.executors import DEVICES, EXACT, KINDS, MIDDLE, Stage
from tests.helpers.fake_device import spoil

WINDOWS = (1, 3)
ITEMS = 9


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    """As a stage process computes: without gradients, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():
        yield
    torch.set_num_threads(threads)


@pytest.fixture(params=[(LAST, MIDDLE), (MIDDLE, FIRST)], ids=["first stage", "last stage"])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Stage:
    """A stage."""
    before, after = request.param
    return Stage(before, after, tmp_path)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Which executor."""
    found: str = request.param
    return found


@pytest.fixture
def executor(stage: Stage, kind: str) -> Iterator[Executor]:
    """An executor of the stage."""
    made = stage.executor(kind)
    yield made
    made.close()
    made.close()


class Slots:
    """Receive buffers as a transport has them, used in turn; what is to come first is garbage."""

    def __init__(self, stage: Stage, window: int) -> None:
        first = stage.inputs(0)
        self._slots = itertools.cycle(
            [tuple(map(torch.empty_like, first)) for _ in range(window + 1)]
        )

    def receive(self, tensors: Tensors) -> Tensors:
        """Receive a batch."""
        slot = next(self._slots)
        spoil(slot)
        for own, tensor in zip(slot, tensors, strict=True):
            own.copy_(tensor)
        return slot


@pytest.mark.parametrize("window", WINDOWS)
def test_outputs_are_the_stage_s_as_long_as_they_may_be_read(
    stage: Stage, kind: str, executor: Executor, window: int
) -> None:
    slots, flying = Slots(stage, window), deque[tuple[int, Tensors]]()
    executor.begin(window)

    def hold(number: int, outputs: Tensors) -> None:
        error = largest_error(outputs, stage.wanted(number))
        assert error <= (0 if kind in EXACT else TOLERANCE), f"batch {number}"

    for number in range(ITEMS):
        outputs = executor.run(slots.receive(stage.inputs(number))).tensors
        assert [tensor.is_contiguous() for tensor in outputs] == [True] * len(outputs)
        hold(number, outputs)
        flying.append((number, outputs))
        if len(flying) > window:
            hold(*flying.popleft())
    for each in flying:
        hold(*each)


def test_a_larger_window_may_follow_a_smaller_one(stage: Stage, executor: Executor) -> None:
    for window in (1, 4, 2):
        executor.begin(window)
        found = [executor.run(stage.inputs(number)).tensors for number in range(window + 1)]
        for number, outputs in enumerate(found):
            assert largest_error(outputs, stage.wanted(number)) <= TOLERANCE


def test_inputs_are_only_read(stage: Stage, executor: Executor) -> None:
    executor.begin(1)
    inputs = stage.inputs(3)
    before = [tensor.clone() for tensor in inputs]
    executor.run(inputs)
    assert all(map(torch.equal, inputs, before))


def test_times_follow_one_another_and_say_what_was_copied(
    stage: Stage, kind: str, executor: Executor
) -> None:
    executor.begin(1)
    found = [executor.run(stage.inputs(number)) for number in range(5)]
    for before, after in itertools.pairwise(found):
        assert before.start_ns < before.computed_ns <= after.start_ns
    own_device = kind in [getattr(each, "values", (each,))[0] for each in DEVICES]
    for each in found:
        copied = (each.copy_in_ns is not None, each.copy_out_ns is not None)
        assert copied == (own_device and not kind.startswith("onnx"),) * 2
        assert (each.cpu_ns is None) == own_device
        if not kind.startswith("fake"):  # whose clock is another
            assert 0 < busy_ns(each) <= each.computed_ns - each.start_ns


def busy_ns(computed: Computed) -> int:
    """Time of the computation and all copies."""
    return computed.compute_ns + (computed.copy_in_ns or 0) + (computed.copy_out_ns or 0)


@pytest.mark.parametrize("kind", [each for each in KINDS if each != "eager"], indirect=True)
def test_in_steady_state_outputs_use_the_same_memory_in_turn(
    stage: Stage, executor: Executor
) -> None:
    executor.begin(2)
    places = [executor.run(stage.inputs(number)).tensors[0].data_ptr() for number in range(9)]
    assert places[:3] * 3 == places and len(set(places)) == 3

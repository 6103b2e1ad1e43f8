"""A device of its own: what a host sees of it too early, and which times are told apart."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from paretopipe_worker.cuts import FIRST, LAST
from paretopipe_worker.execution.cuda import moved
from paretopipe_worker.execution.eager import stage_of
from paretopipe_worker.execution.staged import Staged
from tests.helpers.executors import MIDDLE, Stage, model
from tests.helpers.fake_device import COPY_NS, RUN_NS, FakeDevice


@pytest.fixture(params=[False, True], ids=["copies first", "computing first"])
def device(request: pytest.FixtureRequest) -> FakeDevice:
    """A device."""
    return FakeDevice(last_first=request.param)


def test_what_is_read_before_its_event_is_garbage(device: FakeDevice) -> None:
    stream, event = device.stream(), device.event()
    target, source = torch.zeros(3), torch.ones(3)
    stream.copy(target, source)
    stream.record(event)
    assert target.isnan().all()
    event.wait()
    assert target.eq(1).all()


def test_what_is_overwritten_before_its_event_is_what_was_copied(device: FakeDevice) -> None:
    stream, event = device.stream(), device.event()
    target, source = torch.zeros(3), torch.ones(3)
    stream.copy(target, source)
    stream.record(event)
    source.fill_(2)
    event.wait()
    assert target.eq(2).all()


def test_copies_and_computation_are_told_apart_by_the_device_s_clock(
    tmp_path: Path, device: FakeDevice
) -> None:
    stage = Stage(MIDDLE, FIRST, tmp_path)
    made = Staged(device, stage.assignment)
    with torch.inference_mode():
        made.begin(1)
        done = made.run(stage.inputs(1))
    host_ns = done.computed_ns - done.start_ns
    inputs, outputs = len(stage.assignment.inputs), len(stage.assignment.outputs)
    assert (inputs, outputs) == (3, 4)
    assert done.compute_ns == RUN_NS
    assert done.copy_out_ns == outputs * COPY_NS
    assert done.copy_in_ns is not None
    # The host's own copy, into memory that the device can read, is part of it.
    assert 0 < done.copy_in_ns - inputs * COPY_NS < host_ns


def test_once_a_leg_has_begun_no_memory_is_taken(tmp_path: Path, device: FakeDevice) -> None:
    stage = Stage(LAST, MIDDLE, tmp_path)
    made = Staged(device, stage.assignment)
    made.begin(3)
    taken = device.taken
    assert taken > 0
    with torch.inference_mode():
        for number in range(8):
            made.run(stage.inputs(number))
    assert device.taken == taken


@pytest.mark.parametrize("ends", [(LAST, MIDDLE), (MIDDLE, FIRST)])
def test_a_stage_that_was_moved_leaves_nothing_on_the_cpu(
    tmp_path: Path, ends: tuple[str, str]
) -> None:
    # Torch refuses to compute with tensors of two devices; `meta` is one that every host has.
    stage, meta = Stage(*ends, tmp_path), torch.device("meta")
    there = moved(model(), model().held_between(*ends), meta)
    assert {tensor.device for tensor in there.tensors.values()} == {meta}
    with torch.inference_mode():
        found = stage_of(there, *ends)(*(each.to(meta) for each in stage.inputs(0)))
    wanted = stage.wanted(0)
    assert [(each.shape, each.dtype) for each in found] == [
        (each.shape, each.dtype) for each in wanted
    ]
    assert {each.device for each in found} == {meta}

"""Batches in flight: what was handed over for sending is not changed before it has arrived."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path

import torch
from torch import nn

from paretopipe_worker.cuts import Cut, TensorSpec
from paretopipe_worker.execution.eager import Eager
from paretopipe_worker.link import state
from paretopipe_worker.model.capture import capture
from paretopipe_worker.model.flat import Stage
from paretopipe_worker.model.inputs import example_input
from paretopipe_worker.model.partition import Partitioned, split
from paretopipe_worker.records.files import Writer
from paretopipe_worker.session.check import Check
from paretopipe_worker.session.context import Context, Shares
from paretopipe_worker.session.flights import Flights
from paretopipe_worker.session.observation import Observation
from paretopipe_worker.transport.api import MARK, Transport
from tests.helpers import fake_plan
from tests.helpers.rings import ring

WINDOW = 3
PATIENCE_S = 60


class Overwriting(nn.Module):
    """Works on its input in place, in two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Doubling(), Doubling()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the input itself, changed."""
        doubled: torch.Tensor = self.second(self.first(x))
        return doubled


class Doubling(nn.Module):
    """Doubles what it is given, in place."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the input itself, changed."""
        return x.mul_(2)


class Watched:
    """A stage that, once given its third input, waits until the first message has arrived."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.calls = stage, itertools.count(1)
        self.third, self.arrived = threading.Event(), threading.Event()

    def __call__(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Run the stage."""
        if next(self.calls) == WINDOW:
            self.third.set()
            assert self.arrived.wait(PATIENCE_S)
        return self.stage(*tensors)


def echo(transport: Transport, stage: Watched) -> None:
    """Another rank, which takes nothing before the first one is at its third input."""
    assert stage.third.wait(PATIENCE_S)
    transport.begin(overlap=True)
    while (message := transport.recv()).tag != MARK:
        stage.arrived.set()
        transport.send(message.tag, message.tensors)
    transport.send(MARK, ())


def test_a_model_that_works_in_place_changes_no_input_and_nothing_that_is_still_being_sent(
    tmp_path: Path,
) -> None:
    # More than the kernel takes, so that most of it is still the sender's.
    batch = 1 + sum(map(most_bytes, ("rmem", "wmem"))) // (4 * 3 * 224 * 224)
    crossing = TensorSpec((batch, 3, 224, 224), "float32")
    plan = fake_plan.make(fake_plan.table((Cut("first", (crossing,)),), batch), batch=batch)
    point = next(point for point in plan.points if point.split == ("first",))
    inputs = [example_input(crossing, seed=1, index=index) for index in (0, 1)]
    captured = capture(Overwriting().eval(), inputs[:1])
    first, _ = split(Partitioned(captured.program, captured.tensors), point.split)
    assert first is not None
    stage, check = Watched(first), Check(allowed=0)
    references = [(tensor * 2,) for tensor in inputs]
    with ring("tcp") as ends, Writer(tmp_path / "records.jsonl") as writer:
        for end in ends:
            end.configure([crossing], [crossing], window=WINDOW, deadline_s=PATIENCE_S)
        context = Context(
            plan=plan,
            session=plan.sessions[0],
            rank=0,
            host=plan.hosts[1],
            models={},
            numerics="",
            transport=ends[0],
            path=ends[0],
            link=state.read(None),
            writer=writer,
            shares=Shares(),
        )
        flights = Flights(
            observation=Observation(context, point, "throughput", 0, WINDOW),
            executor=Eager(stage),
            inputs=[(tensor,) for tensor in inputs],
            references=references,
            check=check,
        )
        other = threading.Thread(target=echo, args=(ends[1], stage))
        other.start()
        ends[0].begin(overlap=True)
        for flight in [flights.launch(warmup=False) for _ in range(WINDOW)]:
            flights.complete(flight)
        flights.drain()
        other.join(PATIENCE_S)
    assert (check.output, check.error) == ("exact", None)


def most_bytes(buffer: str) -> int:
    """How large the kernel may make one of TCP's buffers."""
    return int(Path(f"/proc/sys/net/ipv4/tcp_{buffer}").read_text().split()[2])

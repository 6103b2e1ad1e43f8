"""Batches in flight: what was handed over for sending is not changed before it has arrived."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path

import torch
from torch import nn

from paretopipe_worker.cuts import Cut, TensorSpec
from paretopipe_worker.link import state
from paretopipe_worker.model.zoo import example_input
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
    """Takes the negative values out of its input, in place.

    Once it is given its third input it waits until the first message has arrived.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls = itertools.count(1)
        self.third, self.arrived = threading.Event(), threading.Event()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
        """Return the input itself."""
        if next(self.calls) == WINDOW:
            self.third.set()
            assert self.arrived.wait(PATIENCE_S)
        return (x.relu_(),)


def echo(transport: Transport, stage: Overwriting) -> None:
    """Another rank, which takes nothing before the first one is at its third input."""
    assert stage.third.wait(PATIENCE_S)
    transport.begin(overlap=True)
    while (message := transport.recv()).tag != MARK:
        stage.arrived.set()
        transport.send(message.tag, message.tensors)
    transport.send(MARK, ())


def test_an_input_that_is_overwritten_is_not_while_it_is_still_being_sent(tmp_path: Path) -> None:
    # More than the kernel takes, so that most of it is still the sender's.
    batch = 1 + sum(map(most_bytes, ("rmem", "wmem"))) // (4 * 3 * 224 * 224)
    crossing = TensorSpec((batch, 3, 224, 224), "float32")
    plan = fake_plan.make(fake_plan.table((Cut("0", (crossing,)),), batch), batch=batch)
    point = next(point for point in plan.points if point.split == ("0",))
    inputs = [example_input(crossing, seed=1, index=index) for index in (0, 1)]
    stage, check = Overwriting(), Check(exact_wanted=True)
    with ring("tcp") as ends, Writer(tmp_path / "records.jsonl") as writer:
        for end in ends:
            end.configure([crossing], [crossing], window=WINDOW, deadline_s=PATIENCE_S)
        context = Context(
            plan=plan,
            session=plan.sessions[0],
            rank=0,
            host=plan.hosts[1],
            model=stage,
            captures={},
            numerics="",
            transport=ends[0],
            path=ends[0],
            link=state.read(None),
            writer=writer,
            shares=Shares(),
        )
        flights = Flights(
            observation=Observation(context, point, "throughput", 0, WINDOW),
            stage=stage,
            inputs=inputs,
            references=[(tensor.relu(),) for tensor in inputs],
            overwrites_input=True,
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

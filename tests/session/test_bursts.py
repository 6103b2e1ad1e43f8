"""Throughput over a long path, where outputs return in bursts, compared with what is known."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import pandas as pd
import pytest
import torch

from analysis.measures import completions
from paretopipe_worker.link.conditions import Condition
from paretopipe_worker.plan import window
from paretopipe_worker.plan.plan import Point
from paretopipe_worker.records.lines import Item, LegEnd, Record
from paretopipe_worker.session.context import Context
from tests.helpers.sessions import HOSTS, Finished, Lab, lab, led, of, on_link
from tests.helpers.shaped_link import Relayed, reason_without_relay, shaped_link

pytestmark = [
    pytest.mark.alone,
    pytest.mark.must_run,
    pytest.mark.skipif(bool(reason_without_relay()), reason=reason_without_relay() or "-"),
]

DELAY_MS, STAGE_MS = 100.0, 2.0
WITHIN = 0.03
FEW = [(1, 6, 1.3), (3, 8, 1.3), (8, 30, 1.3), (64, 300, 1.3)]
ALL = [
    *((1, 6, 2), (1, 12, 4), (1, 300, 4), (3, 6, 2), (3, 7, 2), (3, 8, 2), (3, 9, 2), (3, 20, 2)),
    *((3, 100, 8), (8, 6, 2), (8, 20, 2), (8, 30, 2), (8, 300, 9)),
    *((64, 6, 2), (64, 150, 2), (64, 200, 2), (64, 300, 4)),
]
"""Window, fewest items and most seconds of each leg."""


@dataclass(frozen=True)
class Leg:
    """A throughput leg as it was measured, and what the pipeline is known to do."""

    window: int
    end: LegEnd
    stages: tuple[list[Item], list[Item]]

    @property
    def items(self) -> list[Item]:
        """The items as the source measured them."""
        return self.stages[0]

    @property
    def done_ns(self) -> list[int]:
        """When each item's output was back."""
        return [item.done_ns or 0 for item in self.items]

    @property
    def counted(self) -> slice:
        """The items whose completions are in the throughput: what others took is not in it."""
        return slice(1, window.whole(len(self.items), self.window) + 1)

    @property
    def latency_s(self) -> float:
        """Mean latency under load."""
        return statistics.fmean(item.latency_ns or 0 for item in self.items[self.counted]) / 1e9

    @property
    def untaken_s(self) -> float:
        """Mean time until an item took the place in the window of one that was done.

        Outputs return in bursts, and the source computes one item after the other.
        """
        pairs = zip(self.items[self.window :], self.done_ns, strict=False)
        return statistics.fmean(item.start_ns - done for item, done in pairs) / 1e9

    @property
    def known_per_s(self) -> float:
        """Throughput as the slowest stage or the window bounds it."""
        busy_s = (
            statistics.fmean(item.computed_ns - item.start_ns for item in part[self.counted]) / 1e9
            for part in self.stages
        )
        return min(1 / max(busy_s), self.window / (self.latency_s + self.untaken_s))


Asked: TypeAlias = tuple[int, int, float]


@pytest.fixture(
    scope="module", params=[FEW, pytest.param(ALL, marks=pytest.mark.long)], ids=["few", "all"]
)
def measured(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[tuple[Asked, Leg]]:
    """Two stages that wait 2 ms each, 100 ms apart: every leg of one session."""
    folder = tmp_path_factory.mktemp("bursts")
    windows = list(dict.fromkeys(size for size, _, _ in request.param))
    experiment = {
        "models": ["tests.helpers.synthetic:two_of_2_ms"],
        "links": [{"name": "far", "delay_ms": DELAY_MS}],
        "window": windows,
        "splits": {"cuts": ["0"]},
        "phases": {"min_items": 6, "min_s": 0, "max_s": 3, "retries": 0, "warmup_items": 1},
    }
    with shaped_link(folder) as plain:
        link = Relayed(plain.hosts, folder, lease_s=600)
        for rank in range(2):
            link.apply(Condition(delay_ms=DELAY_MS), rank=rank)
        states = {name: link.state(rank) for rank, name in enumerate(HOSTS)}
        made = replace(lab(folder, experiment, **on_link(link.hosts)), link_states=states)
        [session] = made.plan.sessions
        sides = [host.entered for host in link.hosts]
        with led(made, session, *sides) as leader, torch.inference_mode():
            for size, least, most_s in request.param:
                asked(leader.context, least, most_s)
                leader.measure(point_of(made, size), 1)
    return list(zip(request.param, legs_of(made), strict=True))


def point_of(made: Lab, size: int) -> Point:
    """The point of a window, cut in the middle."""
    return next(p for p in made.plan.points if (p.split, p.window) == (("0",), size))


def asked(context: Context, least: int, most_s: float) -> None:
    """Set the fewest items and the most seconds of each leg of the next point."""
    experiment = context.plan.experiment
    phases = replace(experiment.phases, min_items=least, max_s=most_s)
    context.plan = replace(context.plan, experiment=replace(experiment, phases=phases))


def legs_of(made: Lab) -> Iterator[Leg]:
    """The throughput legs in the order in which they were measured, with their latency legs."""
    source, sink = Finished(made, made.plan.sessions[0]).lines
    ends = of(LegEnd, source)
    for alone, loaded in zip(ends[::2], ends[1::2], strict=True):
        assert (alone.phase, loaded.phase) == ("latency", "throughput")

        def within(end: LegEnd, lines: Sequence[Record] = source) -> list[Item]:
            items = (item for item in of(Item, lines) if item.phase == end.phase)
            return [i for i in items if end.start_ns <= i.start_ns <= end.end_ns]

        yield Leg(loaded.window, loaded, (within(loaded), within(loaded, sink)))


def test_throughput_over_a_long_path_is_what_is_known(measured: list[tuple[Asked, Leg]]) -> None:
    for (size, least, most_s), leg in measured:
        said = f"window {size}, at least {least} items, at most {most_s} s"
        assert leg.window == size
        rate = window.rate_per_s(leg.done_ns, size)
        assert rate == pytest.approx(leg.known_per_s, rel=WITHIN), said
        # No window comes around sooner than the delay and the waits take, nor much later.
        nominal = size / (2 * DELAY_MS + 2 * STAGE_MS) * 1e3
        assert rate and 0.85 * nominal < rate < 1.01 * nominal, said
        if leg.end.ended_by == "minimum":
            assert leg.end.items >= max(least, 2 * size + 1), said


def test_the_tables_say_the_same_and_how_full_the_window_was(
    measured: list[tuple[Asked, Leg]],
) -> None:
    legs = [leg for _, leg in measured]
    items = pd.concat(
        pd.DataFrame(vars(item) for item in leg.items).assign(number=number, window=leg.window)
        for number, leg in enumerate(legs)
    )
    windows = completions.whole_windows(items, ["number"])
    rates, ratios = completions.rates(windows), completions.little(windows)
    assert rates.tolist() == pytest.approx([leg.known_per_s for leg in legs], rel=WITHIN)
    taken = [leg.latency_s / (leg.latency_s + leg.untaken_s) for leg in legs]
    assert ratios.tolist() == pytest.approx(taken, abs=WITHIN)
    # In a leg of two windows, half of which is its first burst, places may be free for longer.
    short = windows["periods"] < 3 * windows["window"]
    emptier = np.array(taken) < 1 - WITHIN
    assert completions.notes(windows)[~(short & emptier)].isna().all()

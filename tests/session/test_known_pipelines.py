"""Pipelines with known stage times and payloads, measured over real sockets like any other."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats

from paretopipe_worker.link.conditions import Condition
from paretopipe_worker.plan import window
from paretopipe_worker.records.probes import Probe
from paretopipe_worker.session.context import Context
from tests.helpers import synthetic
from tests.helpers.known import (
    PHASES,
    WITHIN,
    quartile,
    seconds,
    throughput,
    undisturbed,
    went_well,
)
from tests.helpers.namespaces import reason_without_namespaces
from tests.helpers.sessions import HOSTS, Finished, lab, led, on_link, only
from tests.helpers.shaped_link import WithoutNetem, shaped_link

pytestmark = pytest.mark.alone
needs_namespaces = pytest.mark.skipif(
    bool(reason_without_namespaces()), reason=reason_without_namespaces() or "-"
)


def shaped(folder: Path, experiment: dict[str, Any], condition: Condition | None) -> Finished:
    """Run an experiment's cuts between two namespaces whose link is shaped; all must go well."""
    with shaped_link(folder) as plain:
        link = WithoutNetem(plain.hosts, folder)
        made = lab(folder, experiment, **on_link(link.hosts))
        for rank in range(2):
            applied = link.apply(condition, rank=rank)
            if condition:
                assert applied["engine"] == "htb", applied
        if condition:
            states = {name: link.state(rank) for rank, name in enumerate(HOSTS)}
            made = replace(made, link_states=states)
        cuts = (point.split[0] for point in made.plan.points)
        session = only(made, *(cut for cut in cuts if not cut.startswith("@")))
        found = made.run(session, sides=[host.entered for host in link.hosts])
    went_well(found)
    return found


@pytest.fixture(scope="module", params=["none", pytest.param("rate20", marks=pytest.mark.long)])
def known(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Four waits of 20 ms, cut everywhere, over an open link and over 20 Mbit/s.

    As a disturbed leg would be, it is measured again where something else used the machine.
    """
    rate = {"none": None, "rate20": 20.0}[request.param]
    links: list[Any] = [{"name": "rate20", "rate_mbit": rate}] if rate else ["none"]
    experiment = {
        "models": ["tests.helpers.synthetic:four_waits"],
        "links": links,
        "phases": PHASES,
    }
    condition = Condition(rate_mbit=rate) if rate else None
    return undisturbed(lambda: shaped(tmp_path_factory.mktemp("known"), experiment, condition))


def certified_s(known: Finished) -> tuple[float, float, float]:
    """Seconds of 128 KiB with an answer, of an answer, and of 128 KiB in a stream, as probed."""
    size = 4 * synthetic.PROBED
    singles = [
        time
        for probe in known.of(Probe)
        for part in probe.transfers
        if (part.hop, part.bytes) == (0, size)
        for time in part.ns
    ]
    trips = [time for probe in known.of(Probe) for time in probe.round_trip_ns]
    goodput = statistics.mean(probe.goodput_mbit[0] for probe in known.of(Probe))
    return quartile(singles) / 1e9, quartile(trips) / 2e9, size * 8 / (goodput * 1e6)


SPLITS = {"0": (0.02, 0.06), "1": (0.04, 0.04), "2": (0.06, 0.02)}
"""Known seconds of each stage: back-heavy, balanced, front-heavy."""


@needs_namespaces
@pytest.mark.parametrize("cut", SPLITS)
def test_latencies_and_throughput_are_what_theory_says(known: Finished, cut: str) -> None:
    latency = [known.items(rank, cut, "latency") for rank in range(2)]
    loaded = [known.items(rank, cut, "throughput") for rank in range(2)]
    # A wait may end late on a busy machine, never early, and then all that is behind it is late as
    # well: theory takes each item's own stage times, which are held against what is known.
    stage_s = [seconds(part, "computed_ns", "start_ns") for part in latency]
    for values, wanted in zip(stage_s, SPLITS[cut], strict=True):
        assert wanted <= statistics.median(values) < 1.5 * wanted
    sums_s = [sum(pair) for pair in zip(*stage_s, strict=True)]
    typical_s = statistics.median(sums_s)
    single_s, answer_s, stream_s = certified_s(known)

    response_s = seconds(latency[0], "done_ns", "ready_ns")
    moved_s = quartile([all_s - part for all_s, part in zip(response_s, sums_s, strict=True)])
    assert typical_s + moved_s == pytest.approx(typical_s + single_s, rel=WITHIN)

    # The two hosts share a clock here.
    forward_s = [(b.computed_ns - a.ready_ns) / 1e9 for a, b in zip(*latency, strict=True)]
    moved_s = quartile([all_s - part for all_s, part in zip(forward_s, sums_s, strict=True)])
    assert typical_s + moved_s == pytest.approx(typical_s + single_s - answer_s, rel=WITHIN)

    # A wait that ends late slows the items that are counted with it, and no others.
    counted = slice(1, window.whole(len(loaded[0]), 3) + 1)
    busy_s = [statistics.mean(seconds(part, "computed_ns", "start_ns")[counted]) for part in loaded]
    bound = min(1 / max(*busy_s, stream_s), 3 / statistics.median(response_s))
    assert throughput(loaded[0], 3) == pytest.approx(bound, rel=WITHIN)


@needs_namespaces
def test_warm_up_ends_when_items_are_steady_and_says_so(known: Finished) -> None:
    for cut in SPLITS:
        for phase, filling in (("latency", 0), ("throughput", 3)):
            [end] = known.legs(0, cut, phase)
            assert end.warmup_items is not None
            assert end.warmup_ended_by == "steady"
            # As many as 100 ms hold, at least six; with those in flight when that was seen.
            assert 6 + filling <= end.warmup_items <= 20 + 2 * filling
            [other] = known.legs(1, cut, phase)
            assert (other.warmup_items, other.warmup_ended_by) == (None, None)


@needs_namespaces
@pytest.mark.long
def test_a_window_of_auto_fills_a_long_path(tmp_path: Path) -> None:
    experiment = {
        "models": ["tests.helpers.synthetic:two_of_10_ms"],
        "links": [{"name": "far", "delay_ms": 40}],
        "window": [3, "auto"],
        "phases": PHASES | {"min_items": 30},
    }
    found = shaped(tmp_path, experiment, Condition(delay_ms=40))
    latency = [found.items(rank, "0", "latency", "auto") for rank in range(2)]
    latency_s = statistics.median(seconds(latency[0], "done_ns", "ready_ns"))
    busy_s = [statistics.median(seconds(part, "computed_ns", "start_ns")) for part in latency]
    wanted = window.filling(latency_s, max(busy_s))
    [ours], [theirs] = (found.legs(rank, "0", "throughput", "auto") for rank in range(2))
    # Twice 40 ms on the way and twice 10 ms of waiting, over 10 ms.
    assert 10 <= ours.window == theirs.window == wanted <= 13
    narrow = throughput(found.items(0, "0", "throughput", 3), 3)
    wide = throughput(found.items(0, "0", "throughput", "auto"), ours.window)
    # Three in flight come around once in 100 ms, and 10 ms apart are as many as can be.
    assert narrow == pytest.approx(3 / latency_s, rel=0.1)
    loaded = [found.items(rank, "0", "throughput", "auto") for rank in range(2)]
    means_s = [statistics.mean(seconds(part, "computed_ns", "start_ns")) for part in loaded]
    assert 2 * narrow < wide == pytest.approx(1 / max(means_s), rel=0.1)
    [one] = found.legs(0, "0", "latency", "auto")
    assert one.window == 1


def with_items(context: Context, count: int) -> None:
    """Have the next points take this many items a leg."""
    experiment = context.plan.experiment
    phases = replace(experiment.phases, min_items=count)
    context.plan = replace(context.plan, experiment=replace(experiment, phases=phases))


@pytest.mark.long
def test_response_latency_does_not_depend_on_the_number_of_batches(tmp_path: Path) -> None:
    counts = (*[10] * 5, 400, *[10] * 5)
    experiment = {"models": ["tests.helpers.synthetic:two_of_2_ms"], "phases": PHASES}
    made = lab(tmp_path, experiment)
    [session] = made.plan.sessions
    found = Finished(made, session)
    point = made.plan.point(found.point("0"))
    with led(made, session) as leader, torch.inference_mode():
        for count in counts:
            with_items(leader.context, count)
            leader.measure(point, 1)
    went_well(found)
    items = found.items(0, "0", "latency")
    assert len(items) == sum(counts)
    medians_ms, begin = [], 0
    for count in counts:
        latencies = seconds(items[begin : begin + count], "done_ns", "ready_ns")
        medians_ms.append(1e3 * statistics.median(latencies))
        begin += count
    long_ms = medians_ms.pop(5)
    # The interval in which another median like the short ones lies, in 999 of 1000 cases.
    mean, deviation = statistics.mean(medians_ms), statistics.stdev(medians_ms)
    half_ms = stats.t.ppf(0.9995, 9) * deviation * math.sqrt(1 + 1 / 10)
    assert abs(long_ms - mean) <= half_ms + WITHIN * mean
    # The interval itself would hide growth were it wide: with 400 in flight it would be a second.
    assert long_ms < 2 * mean

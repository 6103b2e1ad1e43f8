"""Three stages of known times on three hosts, with another rate on each hop."""

from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path

import pytest

from analysis.run import read
from analysis.tables.points import points
from paretopipe_worker.plan import spec, window
from paretopipe_worker.records.probes import Probe
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
from tests.helpers.sessions import Finished, lab, on_link, only
from tests.helpers.shaped_chain import shaped_chain
from tests.helpers.shaped_link import FRAME, PAYLOAD

pytestmark = [
    pytest.mark.alone,
    pytest.mark.timeout(600),  # with the sessions again where something else used the machine
    pytest.mark.skipif(bool(reason_without_namespaces()), reason=reason_without_namespaces()),
]

NAMES = ("edge", "hub", "server")
WINDOW = 6
"""Enough in flight to keep the busiest stage or hop so."""

SPLITS = {
    "0+2": (0.02, 0.04, 0.02),
    "0+1": (0.02, 0.02, 0.04),
    "1+2": (0.04, 0.02, 0.02),
    "1+1": (0.04, 0.0, 0.04),
}
"""Known seconds of each stage; 128 KiB cross each of the two hops forward."""

LINKS = {
    # A stage is the slowest part: 128 KiB take 11 and 28 ms.
    "stages": [{"rate_mbit": 100}, {"rate_mbit": 40}],
    # The second hop is: 55 ms.
    "hop": [{"rate_mbit": 50}, {"rate_mbit": 20}],
}
BACK_MBIT = 80
CASES = [
    pytest.param("stages", "0+2", marks=pytest.mark.must_run),
    *(pytest.param("stages", split, marks=pytest.mark.long) for split in list(SPLITS)[1:]),
    *(pytest.param("hop", split, marks=pytest.mark.long) for split in SPLITS),
]


def measured(folder: Path, slowest: str, *splits: str) -> Finished:
    """Run splits of four waits of 20 ms over three hosts."""
    asked = {"name": slowest, "hops": LINKS[slowest], "return": {"rate_mbit": BACK_MBIT}}
    experiment = {
        "models": ["tests.helpers.synthetic:four_waits"],
        "links": [asked],
        "window": WINDOW,
        "splits": {"cuts": [split.split("+") for split in splits]},
        "phases": PHASES,
    }
    [link] = spec.parse(experiment).links
    with shaped_chain(folder, link, len(NAMES)) as chain:
        made = lab(folder, experiment, **on_link(chain.hosts, NAMES))
        states = {name: chain.state(rank) for rank, name in enumerate(NAMES)}
        made = replace(made, link_states=states)
        found = made.run(only(made, *splits), sides=[host.entered for host in chain.hosts])
    went_well(found)
    return found


@pytest.fixture(scope="module")
def known(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Finished]:
    """The session over each link, with the splits that the chosen tests ask for."""
    wanted: dict[str, list[str]] = {}
    for item in request.session.items:
        given = getattr(item, "callspec", None)
        if item.path == request.path and given:
            wanted.setdefault(given.params["slowest"], []).append(given.params["split"])

    def run(slowest: str, splits: list[str]) -> Finished:
        return undisturbed(lambda: measured(tmp_path_factory.mktemp(slowest), slowest, *splits))

    return {slowest: run(slowest, splits) for slowest, splits in wanted.items()}


def moved_s(found: Finished) -> float:
    """Seconds of an item's way around the ring, as probes of the path have them.

    A probe sends 128 KiB over one hop and little over the others: what the second hop takes more
    than a small message comes on top of the first.
    """
    size, probes = 4 * synthetic.PROBED, found.of(Probe)
    trip_ns = quartile([ns for probe in probes for ns in probe.round_trip_ns])
    single_ns = [
        quartile(
            [
                ns
                for probe in probes
                for part in probe.transfers
                if (part.hop, part.bytes) == (hop, size)
                for ns in part.ns
            ]
        )
        for hop in (0, 1)
    ]
    return (sum(single_ns) - trip_ns) / 1e9


@pytest.mark.parametrize(("slowest", "split"), CASES)
def test_latency_is_the_sum_and_throughput_that_of_the_slowest_part(
    known: dict[str, Finished], slowest: str, split: str
) -> None:
    found = known[slowest]
    latency = [found.items(rank, split, "latency") for rank in range(3)]
    loaded = [found.items(rank, split, "throughput") for rank in range(3)]
    # A wait may end late on a busy machine, never early: theory takes each item's own stage times,
    # which are held against what is known.
    stage_s = [seconds(part, "computed_ns", "start_ns") for part in latency]
    for values, wanted in zip(stage_s, SPLITS[split], strict=True):
        assert wanted <= statistics.median(values) < 1.5 * wanted + 0.001
    sums_s = [sum(stages) for stages in zip(*stage_s, strict=True)]
    typical_s = statistics.median(sums_s)

    response_s = seconds(latency[0], "done_ns", "ready_ns")
    crossing_s = quartile([all_s - part for all_s, part in zip(response_s, sums_s, strict=True)])
    assert typical_s + crossing_s == pytest.approx(typical_s + moved_s(found), rel=WITHIN)

    # A wait that ends late slows the items that are counted with it, and no others.
    counted = slice(1, window.whole(len(loaded[0]), WINDOW) + 1)
    busy_s = [statistics.mean(seconds(part, "computed_ns", "start_ns")[counted]) for part in loaded]
    size = 4 * synthetic.PROBED
    goodput = [statistics.mean(p.goodput_mbit[hop] for p in found.of(Probe)) for hop in (0, 1)]
    stream_s = [size * 8 / (rate * 1e6) for rate in goodput]
    longest_s = max(*busy_s, *stream_s)
    assert (longest_s in stream_s) == (slowest == "hop")
    assert throughput(loaded[0], WINDOW) == pytest.approx(1 / longest_s, rel=WITHIN)

    # The tables say the same.
    row = points(read(found.lab.results)).set_index("split").loc[split]
    assert row["throughput_images_s"] == pytest.approx(throughput(loaded[0], WINDOW))
    assert row["latency_median_ms"] == pytest.approx(1e3 * statistics.median(response_s))


def test_every_hop_has_the_rate_that_was_asked_of_it(known: dict[str, Finished]) -> None:
    for slowest, found in known.items():
        asked = [hop["rate_mbit"] for hop in LINKS[slowest]] + [BACK_MBIT]
        for probe in found.of(Probe):
            wanted = [rate * PAYLOAD / FRAME for rate in asked]
            assert list(probe.goodput_mbit) == pytest.approx(wanted, rel=0.1)

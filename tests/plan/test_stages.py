"""Pipelines of any number of stages: their points, sessions and predictions, and where they end."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paretopipe_worker.cuts import FIRST, LAST, CutTable, TensorSpec
from paretopipe_worker.plan import identity, planner, resume, spec, summary
from paretopipe_worker.plan import plan as plans
from paretopipe_worker.plan.belonging import ForeignRecords
from paretopipe_worker.plan.fleet import Host
from paretopipe_worker.plan.plan import Plan, PlanError, Point
from tests.helpers.attempts import write
from tests.helpers.tables import fleet, table


def make(hosts: int = 3, cuts: int = 3, **keys: Any) -> Plan:
    """A plan over so many hosts of a model with so many cuts, on the open link by default."""
    asked = spec.parse({"models": ["tiny"], **keys})
    return planner.make(
        "test", asked, fleet(hosts), [table(batch=b, cuts=cuts) for b in asked.batch]
    )


def walked(point: Point, made: CutTable) -> tuple[tuple[TensorSpec, ...], ...]:
    """What crosses each hop, found by walking from the source through the operations.

    A slow twin of the planner: it gives each operation to a rank and sees who has the last one.
    """
    order = [LAST, *made.names, FIRST]
    bounds = [order.index(name) for name in (LAST, *point.split, FIRST)]
    rank_of = [rank for rank, (a, b) in enumerate(itertools.pairwise(bounds)) for _ in range(a, b)]
    sink = rank_of[-1]
    if sink == 0:
        return ((),) * len(point.placement)
    hops = []
    for rank in range(sink):
        before = sum(each <= rank for each in rank_of)
        inputs = tuple(TensorSpec(each.shape, each.dtype) for each in made.inputs)
        hops.append(made.cuts[before - 1].tensors if before else inputs)
    return (*hops, made.output)


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(), hosts=st.integers(2, 4), cuts=st.integers(3, 6), replicates=st.integers(1, 2)
)
def test_a_plan_is_what_listing_everything_would_give(
    data: st.DataObject, hosts: int, cuts: int, replicates: int
) -> None:
    names = [host.name for host in fleet(hosts)]
    placement = st.permutations(names).flatmap(
        lambda order: st.integers(2, hosts).map(lambda size: tuple(order[:size]))
    )
    placements = data.draw(st.lists(placement, min_size=1, max_size=3, unique=True))
    links = ["none", "wifi"][: data.draw(st.integers(1, 2))]
    made = make(
        hosts,
        cuts,
        placements=[list(each) for each in placements],
        links=links,
        batch=[1, 8],
        replicates=replicates,
    )
    order = [LAST, *table(cuts=cuts).names, FIRST]
    wanted = Counter[tuple[Any, ...]]()
    for placed, link, batch in itertools.product(placements, links, (1, 8)):
        for places in itertools.product(range(len(order)), repeat=len(placed) - 1):
            stages = [b - a for a, b in itertools.pairwise((0, *places, len(order) - 1))]
            alone = sorted(stages) == [*(0,) * (len(stages) - 1), len(order) - 1]
            if alone or min(stages) > 0:
                wanted[placed, tuple(order[place] for place in places), link, batch] += 1
    assert Counter((p.placement, p.split, p.link, p.batch) for p in made.points) == wanted
    for point in made.points:
        assert point.hops == walked(point, made.table("tiny", point.batch, "float32")), point
    measured = Counter[tuple[int, str]]()
    for session in made.sessions:
        measured.update((session.replicate, point) for point in session.points)
        for point in map(made.point, session.points):
            assert point.ring == session.placement == point.placement[: len(session.placement)]
            assert (point.link, point.model) == (session.link, session.model)
    assert measured == {(r, p.id): 1 for r in range(replicates) for p in made.points}
    assert len({session.id for session in made.sessions}) == len(made.sessions)


def test_ranks_behind_the_sink_are_not_reached() -> None:
    made = make(splits={"cuts": [["layer1", FIRST], ["layer1", "layer1"], [LAST, "layer0"]]})
    rings = {point.split: (point.ring, point.active_ranks) for point in made.points}
    assert rings == {
        (FIRST, FIRST): (("h0", "h1", "h2"), (0,)),
        (LAST, FIRST): (("h0", "h1"), (0, 1)),
        (LAST, LAST): (("h0", "h1", "h2"), (0, 1, 2)),
        ("layer1", FIRST): (("h0", "h1"), (0, 1)),
        ("layer1", "layer1"): (("h0", "h1", "h2"), (0, 1, 2)),
        (LAST, "layer0"): (("h0", "h1", "h2"), (0, 1, 2)),
    }
    assert {session.id: len(session.points) for session in made.sessions} == {
        "r0-none-tcp-tiny-p0": 4,
        "r0-none-tcp-tiny-p0-first2": 2,
    }


def test_a_stage_without_operations_passes_on_what_it_gets() -> None:
    made = make(splits={"cuts": [["layer1", "layer1"]]})
    sizes = {point.split: point.hop_bytes for point in made.points}
    crossing, taken, answer = 32 * 8 * 8 * 4, 3 * 32 * 32 * 4, 10 * 4
    assert sizes == {
        (FIRST, FIRST): (0, 0, 0),
        (LAST, FIRST): (taken, answer),
        (LAST, LAST): (taken, taken, answer),
        ("layer1", "layer1"): (crossing, crossing, answer),
    }


def test_all_placements_are_all_sequences_of_hosts() -> None:
    made = make(4, placements="all", splits={"cuts": ["layer0", "layer1", "layer2"]})
    found = {point.placement for point in made.points}
    names = [host.name for host in fleet(4)]
    assert found == {
        order[:size] for order in itertools.permutations(names) for size in range(2, 5)
    }
    told = summary.summary(made)
    assert "\n60 placements: 12 of 2 stages, 24 of 3 stages, 24 of 4 stages\n" in told
    assert "\nsplits into 2 stages, beside 2 endpoints: tiny 3\n" in told
    assert "\nsplits into 4 stages, beside 4 endpoints: tiny 1\n" in told


def test_pairs_are_the_hosts_two_by_two() -> None:
    made = make(4, placements="pairs", splits={"cuts": ["layer0"]})
    assert {point.placement for point in made.points} == {("h0", "h1"), ("h2", "h3")}
    assert "where sessions without a common host may run side by side" in summary.summary(made)
    with pytest.raises(plans.PlanError, match="'pairs' of 3 hosts leave h2 without another"):
        make(3, placements="pairs", splits={"cuts": ["layer0"]})


def test_placements_of_too_many_hosts_are_refused_with_their_number() -> None:
    with pytest.raises(PlanError) as refused:
        make(7, placements="all", strategy={"sample": 1})
    assert str(refused.value) == (
        "placements: 'all' of 7 hosts are 13,692 placements; allowed: at most 2,000, or a list of "
        "placements"
    )
    with pytest.raises(PlanError, match="inventory: IPv4 and IPv6"):
        asked = spec.parse({"models": ["tiny"], "placements": "all"})
        hosts = (*fleet(2), Host(name="v6", data_address="fd00::1"))
        planner.make("test", asked, hosts, [table()])


def test_by_default_the_whole_group_is_one_placement() -> None:
    made = make(3, strategy={"sample": 2})
    assert {point.placement for point in made.points} == {("h0", "h1", "h2")}
    told = summary.summary(made)
    assert "\n1 placement of 3 stages: h0 > h1 > h2\n" in told
    assert "\nsplits into 3 stages, beside 3 endpoints: tiny 2 of 3\n" in told


HOPS = {
    "name": "chain",
    "hops": [
        {"forward": {"delay_ms": 10, "rate_mbit": 8}, "back": {"delay_ms": 1}},
        {"forward": {"delay_ms": 100, "rate_mbit": 80}, "back": {"delay_ms": 1}},
    ],
    "return": {"delay_ms": 1000},
}


def test_each_hop_is_predicted_by_its_own_condition_and_each_stage_by_its_host() -> None:
    cuts = [["layer0", "layer1"], ["layer1", "layer1"], ["layer0", FIRST]]
    asked = spec.parse({"models": ["tiny"], "links": [HOPS], "splits": {"cuts": cuts}})
    hosts = tuple(
        Host(name=f"h{n}", data_address=f"10.0.1.{n + 1}", speed_hint=speed)
        for n, speed in enumerate((1.0, 10.0, 100.0))
    )
    made = planner.make("test", asked, hosts, [table()])
    found = {point.split: point.predicted_latency_s for point in made.points}
    # Four parts of 2.5 ms; frames carry 1448 of 1514 bytes.
    bits = {
        name: 8 * 1514 / 1448 * (64 >> n) * 64 * 4 for n, name in enumerate(made.tables[0].names)
    }
    slow, fast, answer_s = 8e6, 80e6, 1 + 8 * 1514 / 1448 * 40 / 1e9
    part = 0.0025
    assert found == pytest.approx(
        {
            (FIRST, FIRST): 4 * part,
            (LAST, FIRST): 40 * part + 0.01 + 8 * 1514 / 1448 * 12288 / slow + answer_s,
            (LAST, LAST): 400 * part
            + 0.11
            + 8 * 1514 / 1448 * 12288 * (1 / slow + 1 / fast)
            + answer_s,
            ("layer0", "layer1"): (1 + 10 + 200) * part
            + 0.11
            + bits["layer0"] / slow
            + bits["layer1"] / fast
            + answer_s,
            ("layer1", "layer1"): (2 + 200) * part
            + 0.11
            + bits["layer1"] * (1 / slow + 1 / fast)
            + answer_s,
            ("layer0", FIRST): (1 + 30) * part + 0.01 + bits["layer0"] / slow + answer_s,
        },
        abs=1e-4,
    )


def test_a_small_buffer_bounds_each_hop_by_its_own_round_trip() -> None:
    usual, small = (
        {point.split: point.predicted_latency_s for point in made.points}
        for made in (make(links=[HOPS], tcp=tcp) for tcp in ({}, {"max_buffer_bytes": 1 << 14}))
    )
    more = {split: seconds - usual[split] for split, seconds in small.items()}
    # A round trip lets 16 KiB pass, over the second hop in 0.102 s; at its rate the 12 KiB of
    # the input took 1.3 ms. The first hop is slow all the same. The answer has 40 bytes.
    answer_s = 40 / (1 << 14)
    assert more[LAST, LAST] == pytest.approx(0.75 * 0.102 - 0.0013 + answer_s, abs=1e-3)
    # To the second host acknowledgements come by the way of the answers.
    assert more[LAST, FIRST] == pytest.approx(0.75 * 1.011 - 0.0128 + answer_s, abs=1e-3)
    assert more[FIRST, FIRST] == 0


def test_a_session_has_the_hosts_and_ways_of_its_ring_alone(tmp_path: Path) -> None:
    made = make(links=[HOPS])
    tasks = {task["id"]: task for task in resume.todo(made, tmp_path)["sessions"]}
    whole, short = tasks["r0-chain-tcp-tiny-p0"], tasks["r0-chain-tcp-tiny-p0-first2"]
    assert whole["ranks"] == {"h0": 0, "h1": 1, "h2": 2}
    assert short["ranks"] == {"h0": 0, "h1": 1}
    assert short["addresses"] == {"h0": "10.0.1.1", "h1": "10.0.1.2"}
    assert short["ports"] == [29400]

    def delays(task: dict[str, Any]) -> dict[str, dict[str, float]]:
        return {
            host: {way["peer"]: way["condition"]["delay_ms"] for way in ways}
            for host, ways in task["link"]["ways"].items()
        }

    h0, h1, h2 = (host.data_address for host in fleet(3))
    assert delays(whole) == {"h0": {h1: 10}, "h1": {h2: 100, h0: 1}, "h2": {h1: 1, h0: 1000}}
    # The second host is the sink: from it the answers go the way back.
    assert delays(short) == {"h0": {h1: 10}, "h1": {h0: 1000}}
    assert math.fsum(task["predicted_s"] for task in tasks.values()) == pytest.approx(
        made.predicted_hours * 3600, abs=4
    )


def test_a_point_counts_once_every_host_up_to_its_sink_has_measured_it(tmp_path: Path) -> None:
    cuts = [["layer0", "layer1"], ["layer1", "layer1"], ["layer0", FIRST]]
    made = make(splits={"cuts": cuts})

    def left() -> set[tuple[str, ...]]:
        tasks = resume.todo(made, tmp_path)["sessions"]
        return {made.point(point).split for task in tasks for point in task["points"]}

    for session in made.sessions:
        write(made, tmp_path, session, ok=session.points, hosts=["h0", "h1"])
    # The third host takes no part where the second one is the sink, or all is on the source.
    assert left() == {("layer0", "layer1"), ("layer1", "layer1"), (LAST, LAST)}
    whole = made.session("r0-none-tcp-tiny-p0")
    write(made, tmp_path, whole, 2, ok=whole.points)
    assert left() == set()
    short = made.session("r0-none-tcp-tiny-p0-first2")
    write(made, tmp_path, replace(short, placement=whole.placement), 2, hosts=["h2"])
    with pytest.raises(ForeignRecords, match="written by rank 2 on 'h2'; session 'r0-none-tcp-tin"):
        left()


def test_a_link_must_fit_every_placement_and_so_fits_their_rings() -> None:
    with pytest.raises(PlanError) as refused:
        make(links=["none", HOPS], placements=[["h0", "h1", "h2"], ["h1", "h0"]])
    assert str(refused.value) == (
        "links[1].hops: 2 hops, but pipelines of 2 stages have 1 (placement h1 > h0)"
    )
    one = {"name": "x", "delay_ms": 5, "return": {"delay_ms": 9}}
    made = make(links=[one])
    assert {len(session.placement) for session in made.sessions} == {2, 3}


def test_what_a_plan_samples_is_what_it_measures_and_a_limit_is_not() -> None:
    base = identity.digest(make())
    assert base == identity.digest(make(limit={"points": 100, "hours": 7}))
    assert base == identity.digest(make(strategy="all"))
    assert base != identity.digest(make(splits={"max_tensors": 2}))
    assert identity.differences(make(strategy={"sample": 1}), make(strategy={"sample": 2})) == [
        "experiment"
    ]


def test_a_plan_of_several_stages_survives_its_file(tmp_path: Path) -> None:
    cuts = ["layer0", "layer2", ["layer1", "layer1"]]
    made = make(placements="all", splits={"cuts": cuts}, strategy={"sample": 2})
    path = tmp_path / "plan.json"
    path.write_text(plans.dump(made))
    assert plans.read(path) == made
    assert identity.digest(plans.read(path)) == identity.digest(made)

"""Splits are counted, drawn and checked without being listed, as a slow twin lists them."""

from __future__ import annotations

import doctest
import itertools
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paretopipe_worker.cuts import FIRST, LAST, CutTable
from paretopipe_worker.plan import planner, spec, splits
from paretopipe_worker.plan.plan import Plan, PlanError
from paretopipe_worker.plan.splits import Choice, Split
from tests.helpers.tables import fleet, table


def plan(*tables: CutTable, hosts: int = 3, side_by_side: bool = False, **keys: Any) -> Plan:
    """A plan over so many hosts and these tables, on the open link by default."""
    names = list(dict.fromkeys(each.model for each in tables))
    batches = list(dict.fromkeys(each.batch for each in tables))
    asked = spec.parse({"models": names, "batch": batches, **keys})
    return planner.make("test", asked, fleet(hosts), tables, side_by_side=side_by_side)


def inner(made: Plan, **wanted: Any) -> set[Split]:
    """The splits of the points that have these values, without the endpoints."""
    return {
        point.split
        for point in made.points
        if all(getattr(point, name) == value for name, value in wanted.items())
        and point.split not in splits.endpoints(len(point.placement))
    }


def test_the_examples_are_true() -> None:
    assert doctest.testmod(splits).failed == 0


@settings(deadline=None)
@given(
    names=st.integers(0, 6),
    cuts=st.integers(1, 4),
    others=st.integers(0, 3),
    seed=st.integers(),
)
def test_a_choice_counts_and_draws_what_it_would_list(
    names: int, cuts: int, others: int, seed: int
) -> None:
    candidates = tuple(f"c{number}" for number in range(names))
    beside = tuple((f"x{number}",) * cuts for number in range(others))
    choice = Choice(cuts, candidates, beside)
    twin = [
        split
        for split in itertools.product(candidates, repeat=cuts)
        if all(before < after for before, after in itertools.pairwise(split))
    ]
    twin += beside
    assert (choice.count, list(choice)) == (len(twin), twin)
    for number in range(choice.count + 2):
        drawn = list(choice.drawn(number, str(seed)))
        places = [twin.index(split) for split in drawn]
        assert len(places) == min(number, len(twin))
        assert places == sorted(set(places)), "repeated, or in another order"


def test_every_split_is_drawn_as_often_as_any_other() -> None:
    choice = Choice(2, ("a", "b", "c", "d", "e"), (("a", "a"),))
    drawn = Counter(next(choice.drawn(1, str(seed))) for seed in range(2200))
    assert len(drawn) == 11
    # 200 of each are expected, and their standard deviation is 13.5.
    assert all(140 < times < 260 for times in drawn.values()), drawn


def test_a_sample_of_very_many_is_drawn_at_once() -> None:
    choice = Choice(20, tuple(f"c{number:03}" for number in range(500)))
    assert choice.count > 2**64
    drawn = list(choice.drawn(5, "0"))
    assert len(set(drawn)) == 5
    assert all(len(set(split)) == 20 and list(split) == sorted(split) for split in drawn)


def test_names_are_candidates_and_lists_are_splits() -> None:
    lists = [["layer1", "layer1"], ["layer4", FIRST], [LAST, "layer3"], ["layer0", "layer2"]]
    lists += [["layer4", "layer4"], [LAST, LAST]]
    made = plan(table(cuts=5), splits={"cuts": ["layer2", "layer0", "layer4", FIRST, *lists]})
    assert inner(made) == {
        ("layer0", "layer2"),
        ("layer0", "layer4"),
        ("layer2", "layer4"),
        ("layer1", "layer1"),
        ("layer4", "layer4"),
        ("layer4", FIRST),
        (LAST, "layer3"),
    }
    measured = [point for session in made.sessions for point in session.points]
    assert len(set(measured)) == len(measured) == len(made.points) == 7 + 3


def test_a_list_is_for_the_placements_of_as_many_hosts() -> None:
    cuts = ["layer0", "layer1", ["layer2"], ["layer2", "layer2"]]
    made = plan(table(), placements=[["h0", "h1"], ["h2", "h1", "h0"]], splits={"cuts": cuts})
    assert inner(made, placement=("h0", "h1")) == {("layer0",), ("layer1",), ("layer2",)}
    assert inner(made, placement=("h2", "h1", "h0")) == {
        ("layer0", "layer1"),
        ("layer2", "layer2"),
    }


@pytest.mark.parametrize(
    ("cuts", "said"),
    [
        (["layer9", "layer1"], "splits.cuts[0]: model 'tiny' has no block cut 'layer9'; allowed: "),
        (
            ["layer0", ["layer1", "layer9"]],
            "splits.cuts[1][1]: model 'tiny' has no block cut 'layer9'; allowed: layer0, layer1, l",
        ),
        (
            [["layer2", "layer1"]],
            "splits.cuts[0]: in model 'tiny' the data reaches 'layer1' before 'layer2'; allowed is "
            "the order @last, layer0, layer1, layer2, @first",
        ),
        ([[FIRST, "layer1"]], "splits.cuts[0]: in model 'tiny' the data reaches 'layer1' before "),
        (
            [["layer1"]],
            "splits.cuts[0]: makes 2 stages, and no placement has so many hosts; allowed: splits "
            "into 3 stages",
        ),
        (
            ["layer1"],
            "splits.cuts: too few names to choose 2 cuts from, for 3 stages; allowed: at least 2 "
            "names, or lists of 2 names",
        ),
    ],
    ids=["name", "inside", "order", "endpoint", "length", "few"],
)
def test_what_makes_no_split_is_refused(cuts: list[Any], said: str) -> None:
    with pytest.raises(PlanError) as refused:
        plan(table(), splits={"cuts": cuts})
    assert str(refused.value).startswith(said)


def test_a_sample_is_the_same_for_all_that_is_to_be_compared() -> None:
    keys = {
        "links": ["none", "wifi"],
        "backends": ["tcp", "gloo"],
        "window": [2, 3],
        "placements": [["h0", "h1", "h2"], ["h2", "h0", "h1"], ["h0", "h1"]],
        "strategy": {"sample": 4},
    }
    tables = [table(model, batch, 9) for model in ("one", "two") for batch in (1, 8)]
    made = plan(*tables, **keys)
    drawn: dict[tuple[str, int], set[frozenset[Split]]] = {}
    for model, link, backend, batch, window, placement in itertools.product(
        ("one", "two"),
        ("none", "wifi"),
        ("tcp", "gloo"),
        (1, 8),
        (2, 3),
        made.experiment.placements,
    ):
        found = inner(
            made,
            model=model,
            link=link,
            backend=backend,
            batch=batch,
            window=window,
            placement=placement,
        )
        assert len(found) == 4
        drawn.setdefault((model, len(placement)), set()).add(frozenset(found))
    assert all(len(different) == 1 for different in drawn.values()), drawn
    assert drawn["one", 3] != drawn["two", 3]
    assert inner(made) != inner(plan(*tables, **keys, seed=1))
    assert all(
        set(splits.endpoints(len(placement))) <= {p.split for p in made.points if p.link == link}
        for placement in made.experiment.placements
        for link in ("none", "wifi")
    )


def test_a_sample_is_drawn_from_cuts_that_exist_at_every_batch_size() -> None:
    made = plan(table(batch=1, cuts=6), table(batch=8, cuts=3), strategy={"sample": 50})
    for batch in (1, 8):
        assert inner(made, batch=batch) == set(
            itertools.combinations(("layer0", "layer1", "layer2"), 2)
        )


def test_a_plan_beyond_its_limit_is_refused_unless_a_strategy_or_a_list_asks_for_it() -> None:
    large = table(cuts=40)
    small = {"limit": {"points": 782}}
    with pytest.raises(PlanError) as refused:
        plan(large, **small)
    assert str(refused.value) == (
        "limit.points: all splits together make a plan of 783 points, and the limit is 782; "
        "allowed: strategy: all (measures them all the same), guided (those that may be best), "
        "{sample: N} (N of each model), a list in splits.cuts, or another limit"
    )
    assert len(plan(large, limit={"points": 783}).points) == 40 * 39 / 2 + 3
    assert len(plan(large, **small, strategy="all").points) == 783
    assert len(plan(large, **small, splits={"cuts": list(large.names)}).points) == 783
    assert len(plan(large, **small, strategy={"sample": 20}).points) == 20 + 3


def test_the_points_beyond_a_limit_are_as_many_as_would_be_planned() -> None:
    keys = {
        "links": ["none", "wifi"],
        "backends": ["tcp", "gloo"],
        "window": [2, 3, "auto"],
        "placements": [["h0", "h1", "h2"], ["h2", "h1", "h0"], ["h0", "h1"]],
    }
    tables = [table(model, batch, 4) for model in ("one", "two") for batch in (1, 8)]
    there_are = len(plan(*tables, **keys).points)
    assert plan(*tables, **keys, limit={"points": there_are}).points
    with pytest.raises(PlanError, match=f" plan of {there_are:,} points, "):
        plan(*tables, **keys, limit={"points": there_are - 1})


def test_a_plan_that_takes_too_many_hours_is_refused() -> None:
    slow = {"phases": {"min_s": 60, "max_s": 60}, "replicates": 3}
    with pytest.raises(
        PlanError, match=r"^limit\.hours: .* plan of 4\.8\d hours, and the limit is 4\.5; "
    ):
        plan(table(cuts=10), **slow, limit={"hours": 4.5})
    assert plan(table(cuts=10), **slow).predicted_hours == pytest.approx(5, abs=0.5)


def test_the_limit_of_hours_counts_what_sessions_take_that_run_side_by_side() -> None:
    pairs = {"placements": [["h0", "h1"], ["h2", "h3"]], "phases": {"min_s": 60, "max_s": 60}}
    alone = plan(table(cuts=10), hosts=4, **pairs).predicted_hours
    limit = {"limit": {"hours": 0.75 * alone}}
    assert plan(table(cuts=10), hosts=4, side_by_side=True, **pairs, **limit)
    with pytest.raises(PlanError, match=r"^limit\.hours: "):
        plan(table(cuts=10), hosts=4, **pairs, **limit)
    limit = {"limit": {"hours": 0.4 * alone}}
    with pytest.raises(PlanError, match=r"^limit\.hours: "):
        plan(table(cuts=10), hosts=4, side_by_side=True, **pairs, **limit)


def test_what_is_far_beyond_the_limit_is_counted_and_not_made() -> None:
    with pytest.raises(PlanError, match=r"^limit\.points: .* plan of 2,573,031,130 points, "):
        plan(table(cuts=500), hosts=5)

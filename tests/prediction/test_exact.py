"""Exact fronts against looking at every split, of every order of hosts."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.prediction.costs import Costs, Hop
from analysis.prediction.exact import Choice, Fleet, front, front_of_orders
from analysis.tables.front import is_nondominated

# Few different values, so that ties and parts that cost nothing are common; and dyadic ones, whose
# sums are exact in any order.
TIME = st.sampled_from([0.0, 0.25, 0.5, 1.0, 3.0])
BYTES = st.sampled_from([0.0, 64.0, 256.0, 1024.0])
HOP = st.builds(
    Hop,
    delay_ms=st.sampled_from([0.0, 0.25, 4.0]),
    ms_per_byte=st.sampled_from([0.0, 2.0**-8, 2.0**-4]),
    # Nothing is free altogether, else there would be no throughput.
    message_ms=st.sampled_from([0.125, 1.0]),
)


@st.composite
def prefixes(draw: st.DrawFn, hosts: int, places: int) -> np.ndarray:
    """Array (hosts, places) of times before each place; the whole takes some time on each host."""
    rows = [draw(st.lists(TIME, min_size=places - 1, max_size=places - 1)) for _ in range(hosts)]
    return np.array([[0.0, *itertools.accumulate(row)] for row in rows])


@st.composite
def pipelines(draw: st.DrawFn, hosts: int | None = None) -> Costs:
    """Pipelines of up to four hosts and a model of up to six places."""
    count = hosts or draw(st.integers(1, 4))
    places = draw(st.integers(2, 6))
    sent = [*draw(st.lists(BYTES, min_size=places - 1, max_size=places - 1)), 0.0]
    return Costs(
        tuple(map(str, range(places))),
        tuple("abcd"[:count]),
        draw(prefixes(count, places)),
        # A stage that is busy is never quite idle.
        draw(prefixes(count, places)) + 0.125 * np.arange(places),
        np.array(sent),
        draw(BYTES),
        tuple(draw(HOP) for _ in range(count - 1)),
        (None, *(draw(HOP) for _ in range(count - 1))),
        item_ms=draw(st.sampled_from([(), (0.5, 0.0, 1.0, 0.25)[:count]])),
    )


def every_split(costs: Costs) -> np.ndarray:
    """All splits of a pipeline, as an array (n, k-1)."""
    places = range(len(costs.places))
    cuts = list(itertools.combinations_with_replacement(places, len(costs.hops)))
    return np.array(cuts, dtype=np.int64).reshape(len(cuts), len(costs.hops))


def best_of(values: np.ndarray) -> set[tuple[float, float]]:
    """The pairs of objectives that are on the front."""
    return set(map(tuple, values[is_nondominated(values, ["min", "max"])].tolist()))


def by_looking_at_all(costs: Costs, window: int) -> np.ndarray:
    """Both objectives of all splits."""
    splits = every_split(costs)
    return np.column_stack((costs.latency_ms(splits), costs.throughput_per_s(splits, window)))


def found(choices: Iterable[Choice]) -> list[tuple[float, float]]:
    """The pairs of objectives of choices."""
    return [(choice.latency_ms, choice.throughput_per_s) for choice in choices]


@settings(deadline=None, max_examples=60)
@given(pipelines(), st.integers(1, 5))
def test_the_search_finds_the_front_of_all_splits(costs: Costs, window: int) -> None:
    values = found(front(costs, window))
    assert len(set(values)) == len(values)
    assert set(values) == best_of(by_looking_at_all(costs, window))


@settings(deadline=None, max_examples=60)
@given(pipelines(), st.integers(1, 5))
def test_what_a_choice_is_said_to_reach_is_what_its_split_costs(costs: Costs, window: int) -> None:
    choices = front(costs, window)
    splits = np.array([choice.cuts for choice in choices], dtype=np.int64).reshape(
        len(choices), len(costs.hops)
    )
    assert [choice.latency_ms for choice in choices] == costs.latency_ms(splits).tolist()
    assert [choice.throughput_per_s for choice in choices] == costs.throughput_per_s(
        splits, window
    ).tolist()
    assert {choice.hosts for choice in choices} == {costs.hosts}


def fleet_of(costs: Costs, available: tuple[int, ...], sources: tuple[int, ...]) -> Fleet:
    """The hosts of a pipeline in any order; a hop is that to the later of both kinds."""
    ways = [costs.hops[0] if costs.hops else Hop(0, 0), *costs.hops]
    return Fleet(
        places=costs.places,
        hosts=costs.hosts,
        available=available,
        waiting_ms=costs.waiting_ms,
        busy_ms=costs.busy_ms,
        item_ms=costs.item_ms or (0.0,) * len(costs.hosts),
        forward_bytes=costs.forward_bytes,
        return_bytes=costs.return_bytes,
        hop=lambda one, other: ways[max(one, other)],
        back=lambda one, source: ways[min(one, source)],
        sources=sources,
    )


def every_order(fleet: Fleet) -> Iterator[Costs]:
    """A pipeline for each order of each choice of hosts that begins with a source."""
    kinds = [kind for kind, count in enumerate(fleet.available) for _ in range(count)]
    for size in range(1, len(kinds) + 1):
        for order in sorted(set(itertools.permutations(kinds, size))):
            if order[0] in fleet.sources:
                ranks = list(order)
                yield Costs(
                    fleet.places,
                    tuple(fleet.hosts[kind] for kind in order),
                    fleet.waiting_ms[ranks],
                    fleet.busy_ms[ranks],
                    fleet.forward_bytes,
                    fleet.return_bytes,
                    tuple(fleet.hop(*pair) for pair in itertools.pairwise(order)),
                    (None, *(fleet.back(kind, order[0]) for kind in order[1:])),
                    item_ms=tuple(fleet.item_ms[kind] for kind in order),
                )


@settings(deadline=None, max_examples=60)
@given(
    pipelines(hosts=3),
    st.integers(1, 3),
    st.sampled_from([(1, 1, 1), (1, 2, 1), (2, 1, 0), (3, 0, 0)]),
)
def test_the_search_finds_the_front_of_all_orders_of_hosts(
    costs: Costs, window: int, available: tuple[int, ...]
) -> None:
    fleet = fleet_of(costs, available, sources=(0, 2) if available[2] else (0,))
    values = []
    for order in every_order(fleet):
        splits = every_split(order)
        last = len(order.places) - 1
        ends = np.column_stack((splits, np.full(len(splits), last)))
        # All but the source compute something.
        own = splits[(np.diff(ends, axis=1) > 0).all(axis=1) & (splits < last).all(axis=1)]
        values.append(np.column_stack((order.latency_ms(own), order.throughput_per_s(own, window))))
    choices = front_of_orders(fleet, window)
    assert set(found(choices)) == best_of(np.vstack(values))
    for choice in choices:
        assert len(choice.cuts) == len(choice.hosts) - 1


def test_a_front_is_known_by_hand() -> None:
    """Two hosts, one three times as fast: the slow one keeps what is dear to send."""
    costs = Costs(
        ("@last", "0", "@first"),
        ("pi", "server"),
        np.array([[0, 30, 60.0], [0, 10, 20]]),
        np.array([[0, 30, 60.0], [0, 10, 20]]),
        np.array([8000, 1000, 0.0]),
        0.0,
        (Hop(5, 0.008),),
        (None, Hop(5, 0.008)),
    )
    # All on pi: 60 ms, 16.7/s. All on server: 20 + 64 + 5 ms, busiest is the wire. The cut: 30 +
    # 10 + 8 + 5 ms, busiest is pi.
    assert front(costs, window=8) == [Choice(costs.hosts, (1,), 53.0, 1000 / 30)]
    # With one item in flight the throughput is the latency's inverse.
    assert front(costs, window=1) == [Choice(costs.hosts, (1,), 53.0, 1000 / 53)]

"""Conditions, presets, and what a profile means for each way of a pipeline."""

from __future__ import annotations

import math
from typing import Any

import pytest

from paretopipe_worker.link import profiles
from paretopipe_worker.link.conditions import Condition, TcpSettings
from paretopipe_worker.link.presets import PRESETS
from paretopipe_worker.link.profiles import LinkSpec

OPEN = Condition()


def delay(milliseconds: float) -> Condition:
    return Condition(delay_ms=milliseconds)


def link(**keys: Any) -> LinkSpec:
    return profiles.parse({"name": "x", **keys})


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"delay_ms": -1}, "delay_ms: a number from 0 to 10000; got -1"),
        ({"delay_ms": math.inf}, "delay_ms: a number"),
        ({"delay_ms": True}, "delay_ms: a number"),
        (
            {"delay_ms": 20, "jitter_ms": 21},
            "from 0 to delay_ms (20), at most 2000; got 21",
        ),
        ({"jitter_ms": 1}, "jitter_ms: a number from 0 to delay_ms (0)"),
        ({"loss_percent": 120}, "loss_percent: a number from 0 to 100; got 120"),
        ({"rate_mbit": 0}, "rate_mbit: a number from 0.001 to 100000; got 0"),
        ({"distribution": "flat"}, "distribution: one of uniform, normal, pareto, paretonormal"),
        ({"burst_loss_percent": 1}, "both above 0, or neither"),
        (
            {"loss_percent": 1, "burst_loss_percent": 1, "burst_recovery_percent": 9},
            "exclude each other",
        ),
        ({"reorder_percent": 1}, "needs delay_ms"),
    ],
)
def test_an_impossible_condition_is_refused(given: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError) as refused:
        Condition(**given)
    assert named in str(refused.value)


def test_a_condition_tells_what_it_does() -> None:
    assert not OPEN.shaped
    assert not Condition(distribution="pareto").shaped
    assert Condition(rate_mbit=5).shaped
    assert not Condition(rate_mbit=5, delay_ms=3).erratic
    assert Condition(delay_ms=3, jitter_ms=1).erratic
    assert Condition(loss_percent=5).mean_loss == 0.05
    bursts = Condition(burst_loss_percent=1, burst_recovery_percent=19)
    assert bursts.lossy
    assert bursts.mean_loss == pytest.approx(0.05)


@pytest.mark.parametrize(
    "given",
    [
        {"congestion_control": "cubic; reboot"},
        {"congestion_control": ""},
        {"slow_start_after_idle": 1},
        {"max_buffer_bytes": 0},
        {"max_buffer_bytes": 1e6},
    ],
)
def test_tcp_settings_that_no_kernel_takes_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(given))):
        TcpSettings(**given)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_profile_with_a_source(name: str) -> None:
    preset = profiles.parse(name)
    assert preset.shaped
    assert preset.misfit(2) is None
    assert len(PRESETS[name].source) > 40


def test_the_paper_delayed_what_the_raspberry_pi_sent_and_nothing_else() -> None:
    assert profiles.parse("paper-delay200").ways(2) == {(0, 1): delay(200)}
    both = profiles.parse("paper-delay200-rate5").ways(2)
    assert both == {(0, 1): Condition(delay_ms=200, rate_mbit=5), (1, 0): Condition(rate_mbit=5)}


def test_none_shapes_no_way() -> None:
    assert profiles.parse("none").ways(2) == {}
    assert profiles.parse("none").forward_path(2) == (OPEN, OPEN)


def test_of_two_stages_forward_and_back_are_the_two_ways() -> None:
    made = link(forward={"delay_ms": 5}, back={"delay_ms": 7})
    assert made.ways(2) == {(0, 1): delay(5), (1, 0): delay(7)}
    assert made.forward_path(2) == (delay(5), delay(7))
    assert link(delay_ms=5, direction="back").ways(2) == {(1, 0): delay(5)}


def test_a_profile_without_hops_holds_on_every_hop() -> None:
    made = link(forward={"delay_ms": 5}, back={"delay_ms": 7})
    assert made.ways(3) == {
        (0, 1): delay(5),
        (1, 2): delay(5),
        (1, 0): delay(7),
        (2, 1): delay(7),
        (2, 0): delay(7),
    }
    assert made.forward_path(3) == (delay(5), delay(5), delay(7))


def test_each_hop_may_have_its_own_condition_and_the_return_too() -> None:
    hops = [{"delay_ms": 1}, {"forward": {"delay_ms": 2}, "back": {"delay_ms": 3}}]
    made = link(hops=hops)
    assert made.forward_path(3) == (delay(1), delay(2), delay(3))
    assert made.ways(3)[1, 0] == delay(1)
    made = link(hops=hops, **{"return": {"delay_ms": 9}})
    assert made.forward_path(3) == (delay(1), delay(2), delay(9))
    assert made.ways(3)[2, 1] == delay(3)


def test_a_ring_of_the_first_ranks_has_the_hops_between_them_and_the_same_return() -> None:
    hops = [{"forward": {"delay_ms": 1}, "back": {"delay_ms": 3}}, {"delay_ms": 2}]
    made = link(hops=hops)
    assert made.forward_path(2) == (delay(1), delay(3))
    made = link(hops=hops, **{"return": {"delay_ms": 9}})
    assert made.forward_path(2) == (delay(1), delay(9))
    assert made.ways(2) == {(0, 1): delay(1), (1, 0): delay(9)}


def test_acknowledgements_go_back_over_their_own_hop() -> None:
    hops = [{"forward": {"delay_ms": 1}, "back": {"delay_ms": 10}}, {"delay_ms": 100}]
    made = link(hops=hops, **{"return": {"delay_ms": 1000}})
    assert made.round_trips_s(3) == (0.011, 0.2, 1.0)
    assert made.round_trips_s(2) == (1.001, 1.001)
    assert link(hops=hops).round_trips_s(2) == (0.011, 0.011)


def test_of_two_stages_return_is_the_way_back() -> None:
    made = link(forward={"delay_ms": 5}, **{"return": {"delay_ms": 9}})
    assert made.misfit(2) is None
    assert made.ways(2) == {(0, 1): delay(5), (1, 0): delay(9)}


@pytest.mark.parametrize(
    ("keys", "ranks", "named"),
    [
        ({"hops": [{"delay_ms": 1}] * 2}, 2, "hops: 2 hops, but pipelines of 2 stages have 1"),
        ({"hops": [{"delay_ms": 1}] * 2}, 4, "hops: 2 hops, but pipelines of 4 stages have 3"),
        ({"delay_ms": 1, "return": {"delay_ms": 2}}, 2, "return: is the same way as back"),
    ],
)
def test_a_profile_that_does_not_fit_says_why(keys: Any, ranks: int, named: str) -> None:
    assert named in str(link(**keys).misfit(ranks))
    assert link(**keys).misfit(3) is None

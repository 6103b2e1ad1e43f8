"""Shaping by the worker's own command against real netem, whatever kernel this machine has."""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from paretopipe_worker.link.conditions import Condition
from paretopipe_worker.shaping import tc_state
from paretopipe_worker.shaping.egress import EgressSpec
from tests.helpers import uml
from tests.helpers.namespaces import INTERFACE
from tests.helpers.uml_link import (
    ALONE,
    BURSTS,
    COUNT,
    CUT,
    DATA_PORT,
    DELAY,
    DELAY6,
    JITTER,
    LOSS,
    REORDER,
    REPLACED,
    STEPS,
    TCP,
    profile,
)
from tests.helpers.uml_role import WAYS

DEADLINE_S = 240
SLACK_MS = 3
SIGMAS = 4
"""Standard deviations of tolerance: of 16,000 runs one fails by chance."""
WIRE_SHARE = 1448 / 1514
"""Share of payload in full Ethernet frames of TCP with time stamps."""

pytestmark = [
    pytest.mark.alone,
    pytest.mark.must_run,
    pytest.mark.skipif(bool(uml.reason_without_uml()), reason=uml.reason_without_uml()),
]


@pytest.fixture(scope="module")
def found() -> Any:
    """All that was measured on a link shaped by the worker's command."""
    return measured("tests.helpers.uml_link")


def measured(module: str) -> Any:
    """Boot, and read the JSON that a module prints last."""
    done = uml.run(sys.executable, "-m", module, deadline_s=DEADLINE_S)
    assert done.code == 0, done.output
    return json.loads(done.output.splitlines()[-1])


@pytest.fixture(scope="module")
def played() -> Any:
    """What the role did to a link, by ansible-playbook on the host itself."""
    return measured("tests.helpers.uml_role")


def expected(name: str, ways: dict[str, Condition]) -> list[str]:
    """Lines of state of a link shaped by netem."""
    text = json.dumps(profile(name, ways))
    asked = EgressSpec.parse(text, (DATA_PORT,), "netem")
    return tc_state.expected_state(asked, INTERFACE, 1500)


def delays(arrived: list[list[float]]) -> list[float]:
    return [delay_ms for _, delay_ms in arrived]


def lost(arrived: list[list[float]]) -> list[int]:
    numbers = {number for number, _ in arrived}
    return [number for number in range(COUNT) if number not in numbers]


def tolerance(share: float) -> float:
    """How far the share of independent events may be off."""
    return SIGMAS * math.sqrt(share * (1 - share) / COUNT)


def test_a_command_over_its_deadline_fails_and_leaves_no_process() -> None:
    with pytest.raises(RuntimeError, match="did not end within 3 s"):
        uml.run("sleep", "60", deadline_s=3)
    lines = [file.read_bytes() for file in Path("/proc").glob("[0-9]*/cmdline")]
    assert not [line for line in lines if uml.PREFIX.encode() in line]


# One parameter each, on ways of one host


def test_check_mode_says_what_would_be_and_changes_nothing(found: Any) -> None:
    alone = found["alone"]
    assert alone["checked"]["changed"]
    assert alone["checked"]["after"].splitlines() == expected("alone", ALONE)
    assert alone["after_check"] == found["unshaped"]


def test_netem_shapes_where_it_works_even_if_emulation_is_allowed(found: Any) -> None:
    assert found["alone"]["applied"]["engine"] == "netem"
    assert found["alone"]["state"]["link"]["engine"] == "netem"


def test_the_kernel_has_every_way_as_it_was_asked_for(found: Any) -> None:
    shown = found["alone"]["state"]["shown"]
    assert shown == expected("alone", ALONE)


def test_applied_again_nothing_changes(found: Any) -> None:
    alone = found["alone"]
    assert alone["applied"]["changed"]
    assert (alone["again"]["changed"], alone["again"]["commands"]) == (False, [])


def test_tcp_is_set_while_the_link_is_shaped(found: Any) -> None:
    tcp = found["alone"]["state"]["tcp"]
    assert tcp["tcp_congestion_control"] == [TCP.congestion_control]
    assert tcp["tcp_slow_start_after_idle"] == ["0"]
    assert tcp["tcp_no_metrics_save"] == ["1"]
    assert found["unshaped"]["tcp"] != tcp


@pytest.mark.parametrize("address", [DELAY, DELAY6])
def test_a_round_trip_on_the_data_port_takes_the_delay(found: Any, address: str) -> None:
    assert took(ALONE[address].delay_ms, *found["alone"]["connect_ms"][address])


def test_what_answers_from_the_data_port_is_delayed_too(found: Any) -> None:
    assert took(ALONE[DELAY].delay_ms, *found["alone"]["back_ms"])


@pytest.mark.parametrize("address", ALONE)
def test_other_ports_know_nothing_of_it_even_where_all_data_is_lost(
    found: Any, address: str
) -> None:
    assert took(0, *found["alone"]["other_ms"][address])


def took(asked_ms: float, times_ms: list[float], unshaped_ms: Sequence[float] = (0,)) -> bool:
    """Whether something took the time asked for, beyond that of the same where nothing is asked.

    The shortest tells: netem is never early, and it is not netem that a busy machine is late.
    """
    return asked_ms <= min(times_ms) < asked_ms + min(unshaped_ms) + SLACK_MS


def test_delay_alone_delays_all_alike(found: Any) -> None:
    arrived = found["alone"]["one_way"][DELAY]
    assert [number for number, _ in arrived] == list(range(COUNT))
    assert took(ALONE[DELAY].delay_ms, delays(arrived))


def test_jitter_spreads_delays_about_the_delay(found: Any) -> None:
    times, asked = delays(found["alone"]["one_way"][JITTER]), ALONE[JITTER]
    assert statistics.median(times) == pytest.approx(asked.delay_ms, abs=SLACK_MS)
    # Without the outer tenths, which a late processor moves most: 2.563 sd apart in a normal.
    first, *_, last = statistics.quantiles(times, n=10)
    assert (last - first) / 2.563 == pytest.approx(asked.jitter_ms, rel=0.25)


def test_loss_is_each_packets_own(found: Any) -> None:
    gone, share = lost(found["alone"]["one_way"][LOSS]), ALONE[LOSS].mean_loss
    assert abs(len(gone) / COUNT - share) < tolerance(share)
    assert len(gone) / runs(gone) < 1.3


def test_losses_in_bursts_come_in_bursts(found: Any) -> None:
    gone, asked = lost(found["alone"]["one_way"][BURSTS]), ALONE[BURSTS]
    # Of two states each of which tends to last: their correlation makes fewer independent events.
    kept = 1 - (asked.burst_loss_percent + asked.burst_recovery_percent) / 100
    widened = tolerance(asked.mean_loss) * math.sqrt((1 + kept) / (1 - kept))
    assert abs(len(gone) / COUNT - asked.mean_loss) < widened
    assert len(gone) / runs(gone) > 1.6  # 2.5 in the long run


def runs(numbers: list[int]) -> int:
    """How many runs of successive numbers there are."""
    return sum(number - 1 not in set(numbers) for number in numbers)


def test_reordered_packets_overtake_the_delayed(found: Any) -> None:
    arrived, share = found["alone"]["one_way"][REORDER], ALONE[REORDER].reorder_percent / 100
    early = [each for each in delays(arrived) if each < ALONE[REORDER].delay_ms / 2]
    assert abs(len(early) / COUNT - share) < tolerance(share)


def test_a_cut_way_lets_no_data_through(found: Any) -> None:
    assert found["alone"]["one_way"][CUT] == []


# One profile after the other


@pytest.mark.parametrize("name", REPLACED)
def test_a_profile_replaces_the_one_before_and_leaves_nothing_of_it(found: Any, name: str) -> None:
    shown = found["replaced"][name]["state"]["shown"]
    assert shown == expected(name, {DELAY: REPLACED[name]})
    assert found["replaced"][name]["state"]["link"]["name"] == name


def test_tcp_is_put_back_when_the_next_profile_leaves_it_alone(found: Any) -> None:
    assert found["replaced"]["all"]["state"]["tcp"] == found["unshaped"]["tcp"]


def test_duplicates_arrive_beside_what_they_double(found: Any) -> None:
    arrived = found["replaced"]["duplicate"]["one_way"][DELAY]
    share = REPLACED["duplicate"].duplicate_percent / 100
    assert lost(arrived) == []
    assert abs((len(arrived) - COUNT) / COUNT - share) < tolerance(share)


@pytest.mark.parametrize("name", ["paper-delay200-rate5", "paper-delay200", "paper-rate5"])
def test_the_papers_conditions_are_what_tcp_meets(found: Any, name: str) -> None:
    measured, asked = found["replaced"][name], REPLACED[name]
    assert took(asked.delay_ms, *measured["connect_ms"])
    if asked.rate_mbit is None:
        assert measured["mbit"] > 10  # the rate of the profile before is gone
    else:
        assert measured["mbit"] == pytest.approx(asked.rate_mbit * WIRE_SHARE, rel=0.1)


# A trace


@pytest.mark.parametrize("place", [0, 1])
def test_a_segment_that_is_held_is_all_that_the_kernel_has(found: Any, place: int) -> None:
    held, asked = found["stepped"]["held"][place], STEPS[1 - place]
    assert held["shown"] == expected("trace", {DELAY: asked})
    assert took(asked.delay_ms, *held["connect_ms"])


def test_a_trace_that_runs_delays_by_turns_and_loses_nothing_on_its_way(found: Any) -> None:
    arrived = found["stepped"]["one_way"]
    assert [number for number, _ in arrived] == list(range(COUNT))
    slow = [number for number, delay_ms in arrived if delay_ms >= STEPS[0].delay_ms]
    # Half of the time, and not all in one go: five seconds are ten segments.
    assert 0.3 < len(slow) / COUNT < 0.75
    assert runs(slow) >= 3


# And back


def test_restore_brings_back_what_was_there(found: Any) -> None:
    assert found["restore_checked"]["changed"]
    assert found["restore_checked"]["after"] == found["restored"]["after"]
    assert found["restored"]["changed"]
    assert not found["restored_again"]["changed"]
    assert found["after"] == found["unshaped"]


# The role


@pytest.mark.long
def test_the_role_in_check_mode_says_what_would_be_and_changes_nothing(played: Any) -> None:
    (answer,) = played["check"]["answers"]
    assert answer["changed"]
    assert set(expected("role", WAYS)) <= set(answer["diff"]["after"].splitlines())
    assert played["check"]["state"] == played["unshaped"]


@pytest.mark.long
def test_the_role_shapes_once_and_puts_the_link_back(played: Any) -> None:
    applied, again, restored = played["real"]["answers"]
    assert [each["changed"] for each in (applied, again, restored)] == [True, False, True]
    assert set(expected("role", WAYS)) <= set(restored["diff"]["before"].splitlines())
    assert played["real"]["state"] == played["unshaped"]

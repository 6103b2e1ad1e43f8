"""What is asked of a host is read from JSON, or refused: pure, so tested anywhere."""

from __future__ import annotations

import json
from typing import Any

import pytest

from paretopipe_worker.link.conditions import Condition, Way
from paretopipe_worker.link.traces import MAX_SEGMENTS
from paretopipe_worker.shaping import ShapingError
from paretopipe_worker.shaping.egress import CHOSEN_FROM, EgressSpec
from paretopipe_worker.transport import sockets
from tests.helpers.egress import BOTH, FAST, OPEN, PEER, PORT, SLOW, TIMES, following, towards
from tests.helpers.shaped_link import traced


def profile(**condition: Any) -> str:
    """A profile as the command line takes it, of one peer."""
    return json.dumps({"name": "x", "ways": [{"peer": PEER, "condition": condition}]})


def test_a_profile_is_read_from_json() -> None:
    parsed = EgressSpec.parse(profile(delay_ms=200, rate_mbit=5), (PORT,), "netem")
    assert parsed == EgressSpec("x", (Way(PEER, BOTH),), (PORT,), "netem")
    assert EgressSpec.parse('{"name": "none", "ways": []}', (PORT,)).ways == ()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (profile(rate_mbit=0), "profile x: ways[0].condition: rate_mbit: a number from 0.001"),
        (profile(delay_ms=-1), "profile x: ways[0].condition: delay_ms: a number from 0 to 10000"),
        (profile(loss=3), "profile x: ways[0].condition: loss: unknown key; allowed: delay_ms"),
        ('{"name": "x", "ways": [{"peer": "10.0.0.2"}]}', "ways[0]: a mapping of peer and"),
        ('{"name": "x", "ways": {}}', "a name and a list of ways"),
        ('{"name": 3, "ways": []}', "a name and a list of ways"),
        ('{"name": "x", "ways": [], "delay_ms": 3}', "a name and a list of ways"),
        ('{"ways": []}', "a name and a list of ways"),
        ("20", "a name and a list of ways"),
        ("{", "not JSON"),
    ],
)
def test_a_bad_profile_is_refused_by_key_and_allowed_values(text: str, named: str) -> None:
    with pytest.raises(ShapingError) as refused:
        EgressSpec.parse(text, (PORT,), "netem")
    assert named in str(refused.value)


@pytest.mark.parametrize(
    ("peers", "ports", "named"),
    [
        (("pi.local",), (PORT,), "ways[0].peer: 'pi.local' is not an IP address"),
        ((PEER, "fd00::2", "fd00:0::2"), (PORT,), "ways[2].peer: fd00:0::2 is there twice"),
        ((PEER,), (), "--ports must name at least one"),
        ((PEER,), (22,), "so that SSH and the control channel stay free; got 22"),
        ((PEER,), (32767,), "--ports: 1024 to 32766, "),
    ],
)
def test_what_no_filter_can_be_made_of_is_refused(
    peers: tuple[str, ...], ports: tuple[int, ...], named: str
) -> None:
    with pytest.raises(ShapingError) as refused:
        EgressSpec("x", tuple(Way(peer, BOTH) for peer in peers), ports)
    assert named in str(refused.value)


def test_netem_that_duplicates_beside_another_is_refused_and_the_relay_is_not() -> None:
    ways = (Condition(duplicate_percent=1), Condition(delay_ms=5))
    with pytest.raises(ShapingError) as refused:
        towards(*ways)
    assert "profile asked: ways[0].condition.duplicate_percent: " in str(refused.value)
    assert "this host sends to 2 peers" in str(refused.value)
    assert len(towards(*ways, engine="relay").ways) == 2
    assert len(towards(ways[0]).ways) == 1


def test_a_traced_profile_is_read_from_json() -> None:
    trace = (FAST, OPEN, SLOW)
    parsed = EgressSpec.parse(traced(TIMES, trace, PEER), (PORT,), "netem")
    assert parsed == following(trace, TIMES, "netem")


@pytest.mark.parametrize(
    ("starts_s", "period_s", "said"),
    [
        ([0, 5], 4, "timetable: period_s: at least 0.1 s after"),
        ([0, 5, 3], 9, "timetable: time_s: at least 0.1 s after the one before (5)"),
        ([1, 5], 9, "timetable: time_s: the first segment begins at 0"),
        ([0], 9, f"timetable: a trace has 2 to {MAX_SEGMENTS} segments; got 1"),
        ([0, "5"], 9, "starts_s is a list of seconds"),
        ([0, float("nan")], 9, "starts_s is a list of seconds"),
        (5, 9, "starts_s is a list of seconds"),
        ([0, 5], 9, "ways[0].trace: 3 conditions for 2 segments"),
    ],
    ids=range(8),
)
def test_a_timetable_that_makes_no_sense_is_refused(
    starts_s: Any, period_s: Any, said: str
) -> None:
    good = traced(TIMES, (FAST, OPEN, SLOW), PEER)
    times = str({"starts_s": starts_s, "period_s": period_s}).replace("'", '"')
    text = good.partition('"timetable": ')[0] + f'"timetable": {times.replace("nan", "NaN")}}}'
    with pytest.raises(ShapingError) as refused:
        EgressSpec.parse(text, (PORT,))
    assert said in str(refused.value)


def test_transports_take_the_ports_that_the_kernel_chooses_to_begin_where_links_do() -> None:
    assert sockets.SHAPED_FROM == CHOSEN_FROM

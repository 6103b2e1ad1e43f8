"""What ``tc`` prints, read back as it was asked for: pure, so tested anywhere."""

from __future__ import annotations

import json
from typing import Any

import pytest

from paretopipe_worker.link.conditions import Condition, Engine
from paretopipe_worker.shaping import netem
from paretopipe_worker.shaping.tc_state import expected_state, read_state
from tests.helpers.egress import BOTH, towards

FRAME = 1514
"""Bytes of a full Ethernet frame at an MTU of 1500."""

HTB = {"kind": "htb", "handle": "7070:", "root": True, "options": {"r2q": 10, "default": "0"}}
CLASSES = "class htb 7070:1 root leaf 7071: prio 0 rate 10Gbit ceil 10Gbit burst 1250000b\n"


def shown_filters(action: str, after: str = "") -> str:
    """As ``tc filter show`` prints the filters of one IPv4 peer."""
    head = "filter protocol ip pref 1 u32 chain 0 fh 800::80"
    tail = f" order 2048 key ht 800 bkt 0 {action} not_in_hw \n  match 0a4d0002/ffffffff at 16\n"
    return (
        "filter protocol ip pref 1 u32 chain 0 \n"
        "filter protocol ip pref 1 u32 chain 0 fh 800: ht divisor 1 \n"
        f"{head}0{tail}  match 72d80000/ffff0000 at 20\n{after}"
        f"{head}1{tail}  match 000072d8/0000ffff at 20\n{after}"
        f"{head}2{tail}  match 00060000/00ff0000 at 8\n  match 80008000/80008000 at 20\n{after}"
    )


def read(options: str, classes: str = CLASSES) -> list[str]:
    """State as read from what tc prints, a netem's options in JSON."""
    leaf = {"kind": "netem", "handle": "7071:", "parent": "7070:1", "options": json.loads(options)}
    return read_state("eth0", 1, [HTB, leaf], classes, shown_filters("*flowid 7070:1"))


@pytest.mark.parametrize(
    ("condition", "options"),
    [
        # As iproute2 prints it: seconds, shares of 1, bytes per second, all cut to its own units.
        (
            {"delay_ms": 200, "rate_mbit": 5},
            '{"limit":1083,"delay":{"delay":0.2,"jitter":0,"correlation":0},"rate":{"rate":625000,'
            '"packetoverhead":0,"cellsize":0,"celloverhead":0},"ecn":false,"gap":0}',
        ),
        (
            # A tick of the kernel is 64 ns, of which tc prints whole microseconds.
            {"delay_ms": 0.35, "jitter_ms": 0.03, "rate_mbit": 5},
            '{"limit":1001,"delay":{"delay":0.000349,"jitter":2.9e-05,"correlation":0},'
            '"rate":{"rate":625000},"ecn":false,"gap":0}',
        ),
        (
            {"loss_percent": 12.34567, "duplicate_percent": 100 / 3},
            '{"limit":1000,"loss-random":{"loss":0.123457,"correlation":0},"duplicate":'
            '{"duplicate":0.333333,"correlation":0},"rate":{"rate":1250000000},"ecn":false,"gap":0}',
        ),
        (
            {"burst_loss_percent": 0.5, "burst_recovery_percent": 12.5, "rate_mbit": 100},
            '{"limit":1000,"loss-gemodel":{"p":0.005,"r":0.125,"1-h":1,"1-k":0},'
            '"rate":{"rate":12500000},"ecn":false,"gap":0}',
        ),
        (
            {"delay_ms": 10, "reorder_percent": 0.001, "rate_mbit": 1},
            '{"limit":1001,"delay":{"delay":0.01,"jitter":0,"correlation":0},"reorder":'
            '{"reorder":1.00001e-05,"correlation":0},"rate":{"rate":125000},"ecn":false,"gap":1}',
        ),
    ],
)
def test_netem_is_read_back_as_it_was_asked_for(condition: dict[str, Any], options: str) -> None:
    expected = expected_state(towards(Condition(**condition)), "eth0", mtu=1500)
    assert read(options) == expected


@pytest.mark.parametrize(
    ("asked", "other"),
    [
        ({"delay_ms": 20}, {"delay_ms": 20.01}),
        ({"delay_ms": 20}, {"delay_ms": 20, "jitter_ms": 1}),
        ({"loss_percent": 5}, {"loss_percent": 5.001}),
        ({"loss_percent": 5}, {"burst_loss_percent": 5, "burst_recovery_percent": 95}),
        ({"rate_mbit": 5}, {"rate_mbit": 5.001}),
        ({"delay_ms": 1, "reorder_percent": 1}, {"delay_ms": 1, "duplicate_percent": 1}),
    ],
)
def test_conditions_that_differ_are_told_apart(asked: Any, other: Any) -> None:
    states = [
        expected_state(towards(Condition(**each)), "eth0", mtu=1500) for each in (asked, other)
    ]
    assert states[0] != states[1]


def test_what_somebody_else_added_to_a_netem_shows() -> None:
    printed = {**netem.printed(BOTH, FRAME), "corrupt": {"corrupt": 0.01, "correlation": 0}}
    assert read(json.dumps(printed)) != expected_state(towards(BOTH), "eth0", mtu=1500)


PFIFO = {"kind": "pfifo", "handle": "7071:", "parent": "7070:1", "options": {"limit": 1000}}


@pytest.mark.parametrize(
    ("rate_mbit", "engine", "printed"),
    [
        # As iproute2 6.1 prints them: bursts cut to microseconds, rates to Mbit/s above 1 Gbit/s.
        (0.001, "htb", "rate 1Kbit ceil 1Kbit burst 1b cburst 1b"),
        (0.003, "htb", "rate 3Kbit ceil 3Kbit burst 0b cburst 0b"),
        (33.3, "htb", "rate 33300Kbit ceil 33300Kbit burst 407b cburst 407b"),
        (1234.567, "htb", "rate 1234Mbit ceil 1234Mbit burst 15123b cburst 15123b"),
        (100_000, "htb", "rate 100Gbit ceil 100Gbit burst 1237500b cburst 1237500b"),
        (12345.678, "netem", "rate 12345Mbit ceil 12345Mbit burst 1543179b cburst 1543179b"),
        (82.3, "htb", "rate 82300Kbit ceil 82300Kbit burst 1Kb cburst 1Kb"),
        (10_000, "netem", "rate 10Gbit ceil 10Gbit burst 1250000b cburst 1250000b"),
    ],
)
def test_a_class_is_read_back_as_it_was_asked_for(
    rate_mbit: float, engine: Engine, printed: str
) -> None:
    condition = Condition(rate_mbit=rate_mbit)
    leaf = PFIFO
    if engine == "netem":
        leaf = PFIFO | {"kind": "netem", "options": netem.printed(condition, FRAME)}
    classes = f"class htb 7070:1 root leaf 7071: prio 0 {printed} \n"
    state = read_state("eth0", 1, [HTB, leaf], classes, shown_filters("*flowid 7070:1"))
    assert state == expected_state(towards(condition, engine=engine), "eth0", mtu=1500)


def test_a_burst_that_is_none_of_ours_shows() -> None:
    classes = (
        "class htb 7070:1 root leaf 7071: prio 0 rate 20Mbit ceil 20Mbit burst 1600b cburst 1600b\n"
    )
    state = read_state("eth0", 1, [HTB, PFIFO], classes, shown_filters("*flowid 7070:1"))
    asked = expected_state(towards(Condition(rate_mbit=20), engine="htb"), "eth0", mtu=1500)
    assert set(state) - set(asked) == {"class 7070:1 rate 20000 kbit/s burst 640 us"}


def test_filters_into_a_tap_are_read_back_as_they_were_asked_for() -> None:
    mirred = (
        "\taction order 1: mirred (Egress Redirect to device pprelay0) stolen\n"
        "\tindex 1 ref 1 bind 1\n\n"
    )
    filters = shown_filters("terminal flowid", mirred)
    asked = towards(BOTH, engine="relay")
    expected = expected_state(asked, "eth0", mtu=1500)
    assert read_state("eth0", 1, [HTB], "", filters) == expected
    elsewhere = filters.replace("pprelay0", "pprelay1")
    assert read_state("eth0", 1, [HTB], "", elsewhere) != expected


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("match 00060000/00ff0000 at 8", "match 00110000/00ff0000 at 8"),
        ("match 80008000/80008000", "match 80000000/80000000"),
    ],
)
def test_a_filter_of_other_protocols_or_ports_is_none_of_ours(ours: str, theirs: str) -> None:
    filters = shown_filters("*flowid 7070:1").replace(ours, theirs)
    state = read_state("eth0", 1, [HTB], CLASSES, filters)
    assert [line for line in state if "unknown filter" in line]


def test_a_filter_that_is_none_of_ours_is_shown_as_it_is() -> None:
    filters = shown_filters("terminal flowid", "\taction order 1: gact action drop\n")
    assert "unknown filter" in "\n".join(read_state("eth0", 1, [HTB], "", filters))

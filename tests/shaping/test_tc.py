"""What is asked of a host, as ``tc`` commands: pure, so tested anywhere."""

from __future__ import annotations

from typing import Any

import pytest

from paretopipe_worker.link.conditions import Condition
from paretopipe_worker.link.traces import Timetable
from paretopipe_worker.shaping import tc
from paretopipe_worker.shaping.egress import EgressSpec
from tests.helpers.egress import BOTH, FAST, OPEN, SLOW, TIMES, following, towards

FRAME = 1514
"""Bytes of a full Ethernet frame at an MTU of 1500."""


def commands(asked: EgressSpec) -> list[str]:
    return [" ".join(command) for command in tc.apply_commands(asked, "eth0", mtu=1500)]


def leaf(condition: Condition) -> str:
    return commands(towards(condition))[3].split(" 7071: ")[1]


def test_a_condition_is_a_netem_with_its_own_rate_that_only_the_data_ports_enter() -> None:
    assert commands(towards(BOTH)) == [
        "ip link set dev eth0 gso_max_segs 1",
        "tc qdisc add dev eth0 root handle 7070: htb default 0 direct_qlen 1000",
        "tc class add dev eth0 parent 7070: classid 7070:1 htb rate 10000000kbit "
        "ceil 10000000kbit burst 1250000 cburst 1250000 quantum 1514",
        # 5 Mbit/s over 200 ms is 125,000 bytes under way: 83 frames beside the queue.
        "tc qdisc add dev eth0 parent 7070:1 handle 7071: netem limit 1083 delay 200000us "
        "rate 5000kbit",
        "tc filter add dev eth0 parent 7070: protocol ip pref 1 u32 match ip dst 10.77.0.2/32 "
        "match ip sport 29400 0xffff flowid 7070:1",
        "tc filter add dev eth0 parent 7070: protocol ip pref 1 u32 match ip dst 10.77.0.2/32 "
        "match ip dport 29400 0xffff flowid 7070:1",
        "tc filter add dev eth0 parent 7070: protocol ip pref 1 u32 match ip dst 10.77.0.2/32 "
        "match ip protocol 6 0xff match u32 0x80008000 0x80008000 at 20 flowid 7070:1",
    ]


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ({"delay_ms": 0.35}, "delay 350us rate 10000000kbit"),
        ({"rate_mbit": 0.5}, "limit 1000 rate 500kbit"),
        (
            {"delay_ms": 20, "jitter_ms": 5, "rate_mbit": 20},
            # To four standard deviations: 40 ms of 20 Mbit/s are 67 frames.
            "limit 1067 delay 20000us 5000us distribution normal rate 20000kbit",
        ),
        (
            {"delay_ms": 20, "jitter_ms": 5, "distribution": "uniform"},
            "delay 20000us 5000us rate 10000000kbit",
        ),
        ({"loss_percent": 2.5}, "loss random 2.5% rate 10000000kbit"),
        (
            {"burst_loss_percent": 1, "burst_recovery_percent": 25},
            "loss gemodel 1% 25% 100% 0% rate 10000000kbit",
        ),
        (
            {"delay_ms": 10, "reorder_percent": 3, "duplicate_percent": 0.1},
            "delay 10000us duplicate 0.1% reorder 3% rate 10000000kbit",
        ),
    ],
)
def test_each_parameter_is_written_as_netem_takes_it(condition: dict[str, Any], words: str) -> None:
    assert leaf(Condition(**condition)).endswith(words)


def test_the_limit_of_a_delay_without_a_rate_covers_a_fast_link() -> None:
    limit = int(leaf(Condition(delay_ms=200)).split("limit ")[1].split()[0])
    assert limit > 10e9 * 0.2 / 8 / FRAME


@pytest.mark.parametrize("rate_mbit", [None, 0.001, 5, 1000, 100_000])
def test_the_class_around_a_netem_is_no_limit(rate_mbit: float | None) -> None:
    made = tc.apply_commands(towards(Condition(delay_ms=1, rate_mbit=rate_mbit)), "eth0", 1500)
    (words,) = [command for command in made if command[1] == "class"]
    rate_kbit = int(words[words.index("rate") + 1].removesuffix("kbit"))
    assert rate_kbit >= max(10_000_000, (rate_mbit or 0) * 1000)
    # A timer that is a millisecond late loses nothing.
    assert int(words[words.index("burst") + 1]) * 8 == rate_kbit


def test_a_rate_alone_is_a_class_of_htb_that_saves_up_next_to_nothing() -> None:
    assert commands(towards(Condition(rate_mbit=20), engine="htb"))[1:4] == [
        "tc qdisc add dev eth0 root handle 7070: htb default 0 direct_qlen 1000",
        # A frame takes 606 us; 250 bytes take 100.
        "tc class add dev eth0 parent 7070: classid 7070:1 htb rate 20000kbit ceil 20000kbit "
        "burst 250 cburst 250 quantum 1514",
        "tc qdisc add dev eth0 parent 7070:1 handle 7071: pfifo limit 1000",
    ]


def test_netem_is_added_anew_and_never_changed() -> None:
    made = commands(towards(BOTH))
    assert not any(word in command for command in made for word in ("change", "replace"))


def test_each_peer_has_a_condition_of_its_own() -> None:
    asked = towards(*[Condition(delay_ms=number) for number in range(1, 11)])
    made = commands(asked)
    # tc's numbers are hexadecimal.
    assert any("parent 7070:a handle 707a: netem" in each and "10000us" in each for each in made)
    filters = [each for each in made if "filter" in each]
    taken = [(each.split(" dst ")[1].split()[0], each.split()[-1]) for each in filters]
    for number in range(1, 11):
        assert taken.count((f"10.77.0.{number + 1}/32", f"7070:{number:x}")) == 3
    assert len(filters) == 30


def test_the_relay_gets_what_the_filters_take_through_a_tap_of_each_peer() -> None:
    made = commands(towards(BOTH, Condition(delay_ms=1), engine="relay"))
    assert not any("class" in each or "netem" in each for each in made)
    assert made[0:2] == [
        "ip link set dev eth0 gso_max_segs 1",
        "tc qdisc add dev eth0 root handle 7070: htb default 0 direct_qlen 1000",
    ]
    assert [each.split(" match ip dst ")[1] for each in made[2:]] == [
        f"10.77.0.{2 + way}/32 match ip {side} 29400 0xffff "
        f"action mirred egress redirect dev {tc.tap_name(way)}"
        for way in (0, 1)
        for side in ("sport", "dport")
    ] + [
        f"10.77.0.{2 + way}/32 match ip protocol 6 0xff match u32 0x80008000 0x80008000 at 20 "
        f"action mirred egress redirect dev {tc.tap_name(way)}"
        for way in (0, 1)
    ]


def test_ipv6_peers_get_filters_of_their_own_protocol() -> None:
    *_, sport, dport, chosen = commands(towards(BOTH, peers=("fd00::2",)))
    match = "protocol ipv6 pref 2 u32 match ip6 dst fd00::2/128 match ip6"
    assert sport.endswith(f"{match} sport 29400 0xffff flowid 7070:1")
    assert dport.endswith(f"{match} dport 29400 0xffff flowid 7070:1")
    assert chosen.endswith(
        f"{match} protocol 6 0xff match u32 0x80008000 0x80008000 at 40 flowid 7070:1"
    )


def test_an_outage_is_a_loss_of_everything() -> None:
    out = Condition(delay_ms=30, loss_percent=100)
    asked = following((FAST, out), Timetable((0, 5), 10), "netem")
    [command] = tc.step_commands(asked, "eth0", 1500, 1)
    assert "loss random 100%" in " ".join(command)


def test_netem_is_changed_in_place_to_all_of_a_segment() -> None:
    asked = following((FAST, OPEN, SLOW), TIMES, "netem")
    [command] = tc.step_commands(asked, "eth0", 1500, 2)
    assert " ".join(command) == (
        "tc qdisc change dev eth0 parent 7070:1 handle 7071: netem limit 1014 delay 80000us "
        "loss random 1.5% rate 2000kbit"
    )
    assert tc.step_commands(asked, "eth0", 1500, 1)[0][-2:] == ["rate", "10000000kbit"]


def test_htb_is_changed_in_place_to_the_rate_of_a_segment() -> None:
    asked = following((FAST, OPEN, SLOW), TIMES, "htb")
    made = [tc.step_commands(asked, "eth0", 1500, segment) for segment in (2, 1)]
    assert [" ".join(command) for [command] in made] == [
        f"tc class change dev eth0 parent 7070: classid 7070:1 htb rate {rate}kbit ceil {rate}kbit "
        f"burst {burst} cburst {burst} quantum 1514"
        for rate, burst in ((2000, 25), (10_000_000, 125_000))
    ]

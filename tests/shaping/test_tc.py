"""Conditions as ``tc`` commands and back: pure, so tested anywhere."""

from __future__ import annotations

import json
from typing import Any

import pytest

from paretopipe_worker.link.conditions import Condition, Engine, Way
from paretopipe_worker.shaping import netem, tc
from paretopipe_worker.shaping.tc import Shaping, ShapingError

FRAME = 1514
"""Bytes of a full Ethernet frame at an MTU of 1500."""
PORT = 29400
PEER = "10.77.0.2"
BOTH = Condition(delay_ms=200, rate_mbit=5)


def shaping(
    *conditions: Condition, peers: tuple[str, ...] = (), engine: Engine = "netem"
) -> Shaping:
    addresses = peers or tuple(f"10.77.0.{number}" for number in range(2, 2 + len(conditions)))
    ways = tuple(Way(*pair) for pair in zip(addresses, conditions, strict=True))
    return Shaping("asked", ways, (PORT,), engine)


def commands(asked: Shaping) -> list[str]:
    return [" ".join(command) for command in tc.apply_commands(asked, "eth0", mtu=1500)]


def leaf(condition: Condition) -> str:
    return commands(shaping(condition))[3].split(" 7071: ")[1]


def test_a_condition_is_a_netem_with_its_own_rate_that_only_the_data_ports_enter() -> None:
    assert commands(shaping(BOTH)) == [
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
    made = tc.apply_commands(shaping(Condition(delay_ms=1, rate_mbit=rate_mbit)), "eth0", 1500)
    (words,) = [command for command in made if command[1] == "class"]
    rate_kbit = int(words[words.index("rate") + 1].removesuffix("kbit"))
    assert rate_kbit >= max(10_000_000, (rate_mbit or 0) * 1000)
    # A timer that is a millisecond late loses nothing.
    assert int(words[words.index("burst") + 1]) * 8 == rate_kbit


def test_a_rate_alone_is_a_class_of_htb_that_saves_up_next_to_nothing() -> None:
    assert commands(shaping(Condition(rate_mbit=20), engine="htb"))[1:4] == [
        "tc qdisc add dev eth0 root handle 7070: htb default 0 direct_qlen 1000",
        # A frame takes 606 us; 250 bytes take 100.
        "tc class add dev eth0 parent 7070: classid 7070:1 htb rate 20000kbit ceil 20000kbit "
        "burst 250 cburst 250 quantum 1514",
        "tc qdisc add dev eth0 parent 7070:1 handle 7071: pfifo limit 1000",
    ]


def test_netem_is_added_anew_and_never_changed() -> None:
    made = commands(shaping(BOTH))
    assert not any(word in command for command in made for word in ("change", "replace"))


def test_each_peer_has_a_condition_of_its_own() -> None:
    asked = shaping(*[Condition(delay_ms=number) for number in range(1, 11)])
    made = commands(asked)
    # tc's numbers are hexadecimal.
    assert any("parent 7070:a handle 707a: netem" in each and "10000us" in each for each in made)
    filters = [each for each in made if "filter" in each]
    taken = [(each.split(" dst ")[1].split()[0], each.split()[-1]) for each in filters]
    for number in range(1, 11):
        assert taken.count((f"10.77.0.{number + 1}/32", f"7070:{number:x}")) == 3
    assert len(filters) == 30


def test_the_relay_gets_what_the_filters_take_through_a_tap_of_each_peer() -> None:
    made = commands(shaping(BOTH, Condition(delay_ms=1), engine="relay"))
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
    *_, sport, dport, chosen = commands(shaping(BOTH, peers=("fd00::2",)))
    match = "protocol ipv6 pref 2 u32 match ip6 dst fd00::2/128 match ip6"
    assert sport.endswith(f"{match} sport 29400 0xffff flowid 7070:1")
    assert dport.endswith(f"{match} dport 29400 0xffff flowid 7070:1")
    assert chosen.endswith(
        f"{match} protocol 6 0xff match u32 0x80008000 0x80008000 at 40 flowid 7070:1"
    )


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
    return tc.read_state("eth0", 1, [HTB, leaf], classes, shown_filters("*flowid 7070:1"))


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
    expected = tc.expected_state(shaping(Condition(**condition)), "eth0", mtu=1500)
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
        tc.expected_state(shaping(Condition(**each)), "eth0", mtu=1500) for each in (asked, other)
    ]
    assert states[0] != states[1]


def test_what_somebody_else_added_to_a_netem_shows() -> None:
    printed = {**netem.printed(BOTH, FRAME), "corrupt": {"corrupt": 0.01, "correlation": 0}}
    assert read(json.dumps(printed)) != tc.expected_state(shaping(BOTH), "eth0", mtu=1500)


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
    state = tc.read_state("eth0", 1, [HTB, leaf], classes, shown_filters("*flowid 7070:1"))
    assert state == tc.expected_state(shaping(condition, engine=engine), "eth0", mtu=1500)


def test_a_burst_that_is_none_of_ours_shows() -> None:
    classes = (
        "class htb 7070:1 root leaf 7071: prio 0 rate 20Mbit ceil 20Mbit burst 1600b cburst 1600b\n"
    )
    state = tc.read_state("eth0", 1, [HTB, PFIFO], classes, shown_filters("*flowid 7070:1"))
    asked = tc.expected_state(shaping(Condition(rate_mbit=20), engine="htb"), "eth0", mtu=1500)
    assert set(state) - set(asked) == {"class 7070:1 rate 20000 kbit/s burst 640 us"}


def test_filters_into_a_tap_are_read_back_as_they_were_asked_for() -> None:
    mirred = (
        "\taction order 1: mirred (Egress Redirect to device pprelay0) stolen\n"
        "\tindex 1 ref 1 bind 1\n\n"
    )
    filters = shown_filters("terminal flowid", mirred)
    asked = shaping(BOTH, engine="relay")
    expected = tc.expected_state(asked, "eth0", mtu=1500)
    assert tc.read_state("eth0", 1, [HTB], "", filters) == expected
    elsewhere = filters.replace("pprelay0", "pprelay1")
    assert tc.read_state("eth0", 1, [HTB], "", elsewhere) != expected


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("match 00060000/00ff0000 at 8", "match 00110000/00ff0000 at 8"),
        ("match 80008000/80008000", "match 80000000/80000000"),
    ],
)
def test_a_filter_of_other_protocols_or_ports_is_none_of_ours(ours: str, theirs: str) -> None:
    filters = shown_filters("*flowid 7070:1").replace(ours, theirs)
    state = tc.read_state("eth0", 1, [HTB], CLASSES, filters)
    assert [line for line in state if "unknown filter" in line]


def test_a_filter_that_is_none_of_ours_is_shown_as_it_is() -> None:
    filters = shown_filters("terminal flowid", "\taction order 1: gact action drop\n")
    assert "unknown filter" in "\n".join(tc.read_state("eth0", 1, [HTB], "", filters))


def profile(**condition: Any) -> str:
    """A profile as the command line takes it, of one peer."""
    return json.dumps({"name": "x", "ways": [{"peer": PEER, "condition": condition}]})


def test_a_profile_is_read_from_json() -> None:
    parsed = Shaping.parse(profile(delay_ms=200, rate_mbit=5), (PORT,), "netem")
    assert parsed == Shaping("x", (Way(PEER, BOTH),), (PORT,), "netem")
    assert Shaping.parse('{"name": "none", "ways": []}', (PORT,)).ways == ()


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
        Shaping.parse(text, (PORT,), "netem")
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
        Shaping("x", tuple(Way(peer, BOTH) for peer in peers), ports)
    assert named in str(refused.value)


def test_netem_that_duplicates_beside_another_is_refused_and_the_relay_is_not() -> None:
    ways = (Condition(duplicate_percent=1), Condition(delay_ms=5))
    with pytest.raises(ShapingError) as refused:
        shaping(*ways)
    assert "profile asked: ways[0].condition.duplicate_percent: " in str(refused.value)
    assert "this host sends to 2 peers" in str(refused.value)
    assert len(shaping(*ways, engine="relay").ways) == 2
    assert len(shaping(ways[0]).ways) == 1

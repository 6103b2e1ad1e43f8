"""The ``tc`` commands that shape what a host sends.

Everything here is pure. Whoever shapes, the root qdisc is an htb. Its filters take out the traffic
of the stages' data ports, and TCP between two ports that the kernel chose, which is how TensorPipe
and gloo connect. Everything else stays in htb's direct queue, which has no rate and is served
first. If the kernel shapes, each peer has a class of its own, with a netem inside or, where htb
alone keeps the rate, a plain queue. If the relay shapes, each peer's packets are redirected into a
TAP device. Sources: tc-htb(8), tc-u32(8), tc-mirred(8).
"""

from __future__ import annotations

import ipaddress

from paretopipe_worker.link.conditions import Engine
from paretopipe_worker.shaping import htb, netem
from paretopipe_worker.shaping.egress import CHOSEN_FROM, EgressSpec

HANDLE = "7070:"
"""Handle of our root qdisc: it tells our own work, whatever files were lost."""

ROOT = f"htb {HANDLE}"
"""Our root qdisc as `tc_state.root_qdisc` writes it."""

IN_KERNEL = ("netem", "htb")
"""Engines that shape by a class for each way, so that a step of a trace is a command."""

FILTERS = ("parent", HANDLE)
"""Where ``tc filter show`` has to look."""

BOTH_CHOSEN = f"{CHOSEN_FROM << 16 | CHOSEN_FROM:08x}"
"""Word and mask of the two ports of a packet if the kernel chose both."""

_QUEUE_PACKETS = 1000


def tap_name(index: int) -> str:
    """Return the name of the TAP device through which the relay gets the packets of a way."""
    return f"pprelay{index}"


def class_id(index: int) -> str:
    """Return the class of a way; tc's numbers are hexadecimal."""
    return f"{HANDLE}{index + 1:x}"


def apply_commands(egress: EgressSpec, interface: str, mtu: int) -> list[list[str]]:
    """Return the commands that shape an interface whose root qdisc is the kernel's default.

    The relay's TAP devices must exist and be up before they run.

    Parameters
    ----------
    mtu
        The interface's, in bytes.
    """
    frame = netem.frame_bytes(mtu)
    commands = [
        # Class 0 does not exist: what no filter takes goes through htb's direct queue.
        f"qdisc add dev {interface} root handle {HANDLE} htb default 0 direct_qlen {_QUEUE_PACKETS}"
    ]
    if egress.engine in IN_KERNEL:
        for index, way in enumerate(egress.ways):
            leaf = htb.LEAF if egress.engine == "htb" else netem.asked(way.condition, frame)
            commands += [
                f"class add dev {interface} parent {HANDLE} classid {class_id(index)} "
                f"{htb.asked(egress.engine, way.condition, frame)}",
                # Added, never changed: a change keeps netem's old rate, reorder and loss model.
                f"qdisc add dev {interface} parent {class_id(index)} handle {_leaf_handle(index)} "
                f"{leaf}",
            ]
    commands += [
        f"filter add dev {interface} parent {HANDLE} {_match(egress.ways[index].peer, side, port)}"
        f" {_action(egress.engine, index)}"
        for index, side, port in egress.filters
    ]
    commands += [
        f"filter add dev {interface} parent {HANDLE} {_match_chosen(way.peer)}"
        f" {_action(egress.engine, index)}"
        for index, way in enumerate(egress.ways)
    ]
    # GSO comes first: netem and htb take a super-packet of up to 64 KB for one packet, which they
    # would lose as one and send at once.
    return [set_gso(interface, 1), *(["tc", *command.split()] for command in commands)]


def step_commands(egress: EgressSpec, interface: str, mtu: int, segment: int) -> list[list[str]]:
    """Return the commands that bring the kernel to a segment of the trace; none for the relay.

    A change keeps the packets that are queued, so nothing is lost, but it also keeps every setting
    it does not name. The conditions of a trace are delay, loss and rate. Every change of a netem
    sets delay and loss, and `netem.asked` always names the rate, so nothing is left of the segment
    before. A class of htb has only its rate.
    """
    frame = netem.frame_bytes(mtu)
    commands = []
    for index, way in enumerate(egress.ways):
        condition = way.trace[segment]
        if egress.engine == "netem":
            commands += [
                f"qdisc change dev {interface} parent {class_id(index)} "
                f"handle {_leaf_handle(index)} {netem.asked(condition, frame)}"
            ]
        elif egress.engine == "htb":
            commands += [
                f"class change dev {interface} parent {HANDLE} classid {class_id(index)} "
                f"{htb.asked('htb', condition, frame)}"
            ]
    return [["tc", *command.split()] for command in commands]


def delete_root(interface: str) -> list[str]:
    """Return the command that deletes the root qdisc; the kernel puts its own in its place."""
    return ["tc", "qdisc", "del", "dev", interface, "root"]


def set_gso(interface: str, most: int) -> list[str]:
    """Return the command that bounds how many frames one packet handed to the interface holds."""
    return ["ip", "link", "set", "dev", interface, "gso_max_segs", str(most)]


def _leaf_handle(index: int) -> str:
    """Handle of the qdisc inside a way's class."""
    return f"{0x7071 + index:x}:"


def _action(engine: Engine, index: int) -> str:
    """What a filter does with a way's packets."""
    if engine == "relay":
        return f"action mirred egress redirect dev {tap_name(index)}"
    return f"flowid {class_id(index)}"


def _match(peer: str, side: str, port: int) -> str:
    """Select what goes to a peer from or to a port; TCP and UDP keep it in the same place."""
    if ipaddress.ip_address(peer).version == 4:
        return f"protocol ip pref 1 u32 match ip dst {peer}/32 match ip {side} {port} 0xffff"
    return f"protocol ipv6 pref 2 u32 match ip6 dst {peer}/128 match ip6 {side} {port} 0xffff"


def _match_chosen(peer: str) -> str:
    """Select TCP to a peer whose ports the kernel chose at both ends."""
    ports = f"match u32 0x{BOTH_CHOSEN} 0x{BOTH_CHOSEN}"
    if ipaddress.ip_address(peer).version == 4:
        return (
            f"protocol ip pref 1 u32 match ip dst {peer}/32 match ip protocol 6 0xff {ports} at 20"
        )
    return (
        f"protocol ipv6 pref 2 u32 match ip6 dst {peer}/128 match ip6 protocol 6 0xff {ports} at 40"
    )

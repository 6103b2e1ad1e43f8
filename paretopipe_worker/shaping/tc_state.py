"""What ``tc`` prints, as a state that can be compared with what was asked for.

A state is a list of facts, one a line. Interfaces with equal states shape alike, but for how jitter
is distributed: the kernel does not tell that. Everything here is pure.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Any

from paretopipe_worker.link.conditions import Engine
from paretopipe_worker.shaping import htb, netem
from paretopipe_worker.shaping.egress import EgressSpec
from paretopipe_worker.shaping.tc import (
    BOTH_CHOSEN,
    HANDLE,
    IN_KERNEL,
    ROOT,
    class_id,
    tap_name,
)

_CHOSEN = "chosen ports"
_SIDES = {"ffff0000": "sport", "0000ffff": "dport"}
_TCP = {4: ("00060000", "00ff0000", "8"), 6: ("00000600", "0000ff00", "4")}
"""Where the IP header says that TCP follows: word, mask and offset, by IP version."""


def expected_state(egress: EgressSpec, interface: str, mtu: int) -> list[str]:
    """Return the state that `read_state` finds once `tc.apply_commands` have run.

    Parameters
    ----------
    mtu
        The interface's, in bytes.
    """
    state = [f"interface {interface}", "gso_max_segs 1", f"root {ROOT}"]
    if egress.engine in IN_KERNEL:
        frame = netem.frame_bytes(mtu)
        conditions = [way.condition for way in egress.ways]
        state += sorted(
            htb.expected(class_id(index), egress.engine, condition)
            for index, condition in enumerate(conditions)
        )
        leaves = [
            f"netem {netem.described(netem.printed(condition, frame))}"
            if egress.engine == "netem"
            else htb.LEAF
            for condition in conditions
        ]
        state += sorted(f"leaf {class_id(index)} {leaf}" for index, leaf in enumerate(leaves))
    return state + sorted(
        _filter_line(what, egress.ways[index].peer, _target(egress.engine, index))
        for index, what in (
            *((index, f"{side} {port}") for index, side, port in egress.filters),
            *((index, _CHOSEN) for index in range(len(egress.ways))),
        )
    )


def read_state(
    interface: str, gso_max_segs: int, qdiscs: list[Any], classes: str, filters: str
) -> list[str]:
    """Read the state of an interface from what tc says of it.

    Parameters
    ----------
    qdiscs
        Output of ``tc -j qdisc show dev X``.
    classes, filters
        Output of ``tc class show dev X`` and of ``tc filter show dev X parent 7070:``. Both are
        text: what iproute2 6.1 prints of classes is not valid JSON, and what it prints of filters
        repeats a key.
    """
    root = root_qdisc(qdiscs)
    state = [f"interface {interface}", f"gso_max_segs {gso_max_segs}", f"root {root}"]
    if root != ROOT:
        return state
    state += htb.shown(classes)
    state += sorted(
        f"leaf {each['parent']} {each['kind']} {netem.described(each['options'])}"
        for each in qdiscs
        if str(each.get("parent")).startswith(HANDLE)
    )
    return state + sorted(_filter_states(filters))


def root_qdisc(qdiscs: list[Any]) -> str:
    """Return the kind of the root qdisc, with its handle unless the kernel made it (handle 0)."""
    for each in qdiscs:
        if each.get("root"):
            handle = str(each.get("handle", "0:"))
            return str(each["kind"]) if handle == "0:" else f"{each['kind']} {handle}"
    return "none"


def _target(engine: Engine, index: int) -> str:
    """Where a way's packets go, as a line of state says it."""
    return tap_name(index) if engine == "relay" else class_id(index)


def _filter_line(what: str, peer: str, target: str) -> str:
    """A filter as a line of state."""
    return f"shaped: {what} to {ipaddress.ip_address(peer)} by {target}"


def _filter_states(text: str) -> list[str]:
    """Turn u32 filters into lines of state: words, masks and offsets into addresses and ports."""
    states = []
    for block in re.split(r"^filter ", text, flags=re.MULTILINE)[1:]:
        words = re.findall(r"match ([0-9a-f]{8})/([0-9a-f]{8}) at (\d+)", block)
        if not words:
            continue  # the hash table that holds the filters
        version = 4 if words[0][2] == "16" else 6
        *address, (port, mask, _) = words
        chosen = (port, mask) == (BOTH_CHOSEN, BOTH_CHOSEN)
        known = not chosen or address.pop() == _TCP[version]
        packed = bytes.fromhex("".join(word for word, _, _ in address))
        places = [int(offset) for _, _, offset in (*address, words[-1])]
        known &= {4: [16, 20], 16: [24, 28, 32, 36, 40]}.get(len(packed)) == places
        target = re.search(rf"flowid ({HANDLE}[0-9a-f]+)|Redirect to device (\S+?)\)", block)
        if not known or target is None or not (chosen or mask in _SIDES):
            states.append(f"unknown filter: {' '.join(block.split())}")
            continue
        what = _CHOSEN
        if not chosen:
            number = int(port, 16) >> (16 if _SIDES[mask] == "sport" else 0)
            what = f"{_SIDES[mask]} {number}"
        peer = str(ipaddress.ip_address(packed))
        states.append(_filter_line(what, peer, target[1] or target[2]))
    return states

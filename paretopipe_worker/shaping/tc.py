"""Network conditions as ``tc`` commands, and what ``tc`` prints as text that can be compared.

Everything here is pure. The root is htb in all engines: filters take the traffic between the
stages' data ports out of it, and TCP between two ports that the kernel chose, which is how
TensorPipe and gloo connect; all else stays in its direct queue, which has no rate and is served
first. In the kernel each peer has a class of its own, with a netem inside or, for htb alone, a
plain queue; for the relay each peer's packets are redirected into a TAP device. Sources:
tc-htb(8), tc-u32(8), tc-mirred(8).
"""

from __future__ import annotations

import ipaddress
import json
import re
from dataclasses import dataclass
from typing import Any

from paretopipe_worker.link.conditions import Condition, Engine, Way
from paretopipe_worker.link.traces import Timetable
from paretopipe_worker.shaping import htb, netem
from paretopipe_worker.usertext import shown

HANDLE = "7070:"
"""Handle of our root qdisc: by it we know our own work, whatever files were lost."""

ROOT = f"htb {HANDLE}"
"""How `root_qdisc` writes it."""

IN_KERNEL = ("netem", "htb")
"""Engines that shape by a class a way, for which a trace's step is a command."""

FILTERS = ("parent", HANDLE)
"""Where ``tc filter show`` has to look."""

_ETHERNET_HEADER = 14
_QUEUE_PACKETS = 1000
_SIDES = {"ffff0000": "sport", "0000ffff": "dport"}

CHOSEN_FROM = 0x8000
"""Ports from here on are the kernel's to choose (``net.ipv4.ip_local_port_range`` is 32768 to 60999
where nobody changed it), and no data port may be among them: that of the control channel follows
it, and must not be shaped. One bit tells them, so one filter finds what has such a port at both
ends."""

_BOTH_CHOSEN = "80008000"
_TCP = {4: ("00060000", "00ff0000", "8"), 6: ("00000600", "0000ff00", "4")}
"""Where the IP header says that TCP follows: word, mask, offset, by version."""


class ShapingError(RuntimeError):
    """A link cannot be shaped or restored: interface or command, what is wrong, what is allowed."""


@dataclass(frozen=True)
class Shaping:
    """What one host does to the packets it sends to the other stages.

    Parameters
    ----------
    name
        Of the link profile.
    ways
        The shaped ways out of this host, one a peer; none leaves the link as it is.
    ports
        Data ports of all stages: to a peer, what comes from or goes to one of them is shaped, and
        TCP from one port that the kernel chose to another.
    engine
        Who does it; ``none`` until that is known.
    timetable
        When the segments begin of the trace that the link follows; None where it follows none.
        Then each way has as many conditions.
    """

    name: str
    ways: tuple[Way, ...]
    ports: tuple[int, ...]
    engine: Engine = "none"
    timetable: Timetable | None = None

    def __post_init__(self) -> None:
        """Refuse addresses and ports that no filter can be made of, and what no kernel takes."""
        segments = len(self.timetable.starts_s) if self.timetable else 0
        addresses = set()
        for number, way in enumerate(self.ways):
            where = f"profile {self.name}: ways[{number}].peer"
            try:
                address = ipaddress.ip_address(way.peer)
            except ValueError as error:
                raise ShapingError(f"{where}: {shown(way.peer)} is not an IP address") from error
            if address in addresses:
                raise ShapingError(f"{where}: {way.peer} is there twice")
            addresses.add(address)
            if len(way.trace) != segments:
                raise ShapingError(
                    f"profile {self.name}: ways[{number}].trace: {len(way.trace)} conditions for "
                    f"{segments} segments"
                )
            if way.condition.duplicate_percent and len(self.ways) > 1 and self.engine == "netem":
                raise ShapingError(
                    f"profile {self.name}: ways[{number}].condition.duplicate_percent: recent "
                    "kernels take no netem that duplicates beside another one, and this host sends "
                    f"to {len(self.ways)} peers over shaped ways; allowed where it is but one"
                )
        if not self.ports:
            raise ShapingError("--ports must name at least one")
        for port in self.ports:
            if not 1024 <= port < CHOSEN_FROM - 1:
                raise ShapingError(
                    f"--ports: 1024 to {CHOSEN_FROM - 2}, so that SSH and the control channel stay "
                    f"free; got {port}"
                )

    @classmethod
    def parse(cls, text: str, ports: tuple[int, ...], engine: Engine = "none") -> Shaping:
        """Read a profile from JSON: ``{"name": …, "ways": [{"peer": …, "condition": {…}}, …]}``.

        One that follows a trace has a ``timetable`` beside, and each way its ``trace``.

        Raises
        ------
        ShapingError
            When it is none, or a key or value is not allowed: its key path, and what is.
        """
        try:
            value = json.loads(text)
        except json.JSONDecodeError as error:
            raise ShapingError(f"--profile is not JSON: {error}; got {shown(text)}") from error
        known = isinstance(value, dict) and {"name", "ways"} == set(value) - {"timetable"}
        if not known or not isinstance(value["name"], str) or not isinstance(value["ways"], list):
            raise ShapingError(
                f"--profile must be a JSON object of a name and a list of ways; got {shown(text)}"
            )
        ways = [
            _way(f"profile {value['name']}: ways[{number}]", way)
            for number, way in enumerate(value["ways"])
        ]
        times = value.get("timetable")
        try:
            timetable = None if times is None else Timetable.parse(times)
        except ValueError as error:
            raise ShapingError(f"profile {value['name']}: timetable: {error}") from error
        return cls(value["name"], tuple(ways), ports, engine, timetable)

    @property
    def conditions(self) -> list[Condition]:
        """What is asked of every way, in all segments."""
        return [each for way in self.ways for each in (way.condition, *way.trace)]

    @property
    def filters(self) -> list[tuple[int, str, int]]:
        """What is shaped: (index of the way, ``sport`` or ``dport``, port), each once."""
        return [
            (index, side, port)
            for index in range(len(self.ways))
            for port in sorted(set(self.ports))
            for side in ("sport", "dport")
        ]


def tap_name(index: int) -> str:
    """Name of the TAP device through which the relay gets the packets of a shaping's way."""
    return f"pprelay{index}"


def apply_commands(shaping: Shaping, interface: str, mtu: int) -> list[list[str]]:
    """Commands that shape an interface whose root qdisc is the kernel's default.

    For the relay its TAP devices must be there and up.

    Parameters
    ----------
    mtu
        The interface's, in bytes.
    """
    frame = mtu + _ETHERNET_HEADER
    commands = [
        # Class 0 is no class: what no filter takes goes through htb's direct queue.
        f"qdisc add dev {interface} root handle {HANDLE} htb default 0 direct_qlen {_QUEUE_PACKETS}"
    ]
    if shaping.engine in IN_KERNEL:
        for index, way in enumerate(shaping.ways):
            leaf = htb.LEAF if shaping.engine == "htb" else netem.asked(way.condition, frame)
            commands += [
                f"class add dev {interface} parent {HANDLE} classid {_class(index)} "
                f"{htb.asked(shaping.engine, way.condition, frame)}",
                # Added, never changed: a change keeps netem's old rate, reorder and loss model.
                f"qdisc add dev {interface} parent {_class(index)} handle {_leaf_handle(index)} "
                f"{leaf}",
            ]
    commands += [
        f"filter add dev {interface} parent {HANDLE} {_match(shaping.ways[index].peer, side, port)}"
        f" {_action(shaping.engine, index)}"
        for index, side, port in shaping.filters
    ]
    commands += [
        f"filter add dev {interface} parent {HANDLE} {_match_chosen(way.peer)}"
        f" {_action(shaping.engine, index)}"
        for index, way in enumerate(shaping.ways)
    ]
    # First GSO: netem and htb take a super-packet of up to 64 KB for one packet: lost as one, sent
    # at once.
    return [set_gso(interface, 1), *(["tc", *command.split()] for command in commands)]


def step_commands(shaping: Shaping, interface: str, mtu: int, segment: int) -> list[list[str]]:
    """Commands that bring the kernel to a segment of the shaping's trace; none for the relay.

    A change keeps what is queued, and so loses nothing, but also what it does not name. Conditions
    of a trace are delay, loss and rate: the first two are in every change of a netem, the last is
    always named (`netem.asked`), so that none is left of the segment before. A class of htb is its
    rate.
    """
    frame = mtu + _ETHERNET_HEADER
    commands = []
    for index, way in enumerate(shaping.ways):
        condition = way.trace[segment]
        if shaping.engine == "netem":
            commands += [
                f"qdisc change dev {interface} parent {_class(index)} "
                f"handle {_leaf_handle(index)} {netem.asked(condition, frame)}"
            ]
        elif shaping.engine == "htb":
            commands += [
                f"class change dev {interface} parent {HANDLE} classid {_class(index)} "
                f"{htb.asked('htb', condition, frame)}"
            ]
    return [["tc", *command.split()] for command in commands]


def delete_root(interface: str) -> list[str]:
    """Command that takes the root qdisc away; the kernel puts its own in its place."""
    return ["tc", "qdisc", "del", "dev", interface, "root"]


def set_gso(interface: str, segments: int) -> list[str]:
    """Command that bounds how many segments one packet handed to the interface holds."""
    return ["ip", "link", "set", "dev", interface, "gso_max_segs", str(segments)]


def expected_state(shaping: Shaping, interface: str, mtu: int) -> list[str]:
    """What `read_state` returns once `apply_commands` have run."""
    state = [f"interface {interface}", "gso_max_segs 1", f"root {ROOT}"]
    if shaping.engine in IN_KERNEL:
        frame = mtu + _ETHERNET_HEADER
        conditions = [way.condition for way in shaping.ways]
        state += sorted(
            htb.expected(_class(index), shaping.engine, condition)
            for index, condition in enumerate(conditions)
        )
        leaves = [
            f"netem {netem.described(netem.printed(condition, frame))}"
            if shaping.engine == "netem"
            else htb.LEAF
            for condition in conditions
        ]
        state += sorted(f"leaf {_class(index)} {leaf}" for index, leaf in enumerate(leaves))
    return state + sorted(
        _filter_line(what, shaping.ways[index].peer, _target(shaping.engine, index))
        for index, what in (
            *((index, f"{side} {port}") for index, side, port in shaping.filters),
            *((index, _CHOSEN) for index in range(len(shaping.ways))),
        )
    )


def read_state(
    interface: str, gso_max_segs: int, qdiscs: list[Any], classes: str, filters: str
) -> list[str]:
    """What tc says of an interface, one fact a line; equal lists shape alike.

    How jitter is distributed is not among it: the kernel does not tell.

    Parameters
    ----------
    qdiscs
        ``tc -j qdisc show dev X``.
    classes, filters
        ``tc class show dev X`` and ``tc filter show dev X parent 7070:``, both as text: the
        class's JSON is none in iproute2 6.1, the filter's repeats a key.
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
    """Kind of the root qdisc, and its handle unless the kernel itself made it (handle 0)."""
    for each in qdiscs:
        if each.get("root"):
            handle = str(each.get("handle", "0:"))
            return str(each["kind"]) if handle == "0:" else f"{each['kind']} {handle}"
    return "none"


def _way(where: str, value: Any) -> Way:
    """Make a way of parsed JSON."""
    if not isinstance(value, dict) or set(value) - {"trace"} != {"peer", "condition"}:
        raise ShapingError(f"{where}: a mapping of peer and condition; got {shown(value)}")
    trace = value.get("trace") or []
    if not isinstance(trace, list):
        raise ShapingError(f"{where}.trace: a list of conditions; got {shown(trace)}")
    try:
        condition, *later = (Condition.parse(each) for each in (value["condition"], *trace))
    except ValueError as error:
        raise ShapingError(f"{where}.condition: {error}") from error
    return Way(str(value["peer"]), condition, tuple(later))


def _class(index: int) -> str:
    """Class of a way; tc's numbers are hexadecimal."""
    return f"{HANDLE}{index + 1:x}"


def _leaf_handle(index: int) -> str:
    """Handle of the qdisc inside a way's class."""
    return f"{0x7071 + index:x}:"


def _target(engine: Engine, index: int) -> str:
    """Where a way's packets go, as a line of state says it."""
    return tap_name(index) if engine == "relay" else _class(index)


def _action(engine: Engine, index: int) -> str:
    """What a filter does with a way's packets."""
    if engine == "relay":
        return f"action mirred egress redirect dev {tap_name(index)}"
    return f"flowid {_class(index)}"


def _match(peer: str, side: str, port: int) -> str:
    """Select what goes to a peer from or to a port; TCP and UDP keep it in the same place."""
    if ipaddress.ip_address(peer).version == 4:
        return f"protocol ip pref 1 u32 match ip dst {peer}/32 match ip {side} {port} 0xffff"
    return f"protocol ipv6 pref 2 u32 match ip6 dst {peer}/128 match ip6 {side} {port} 0xffff"


def _match_chosen(peer: str) -> str:
    """Select TCP to a peer whose ports the kernel chose at both ends."""
    if ipaddress.ip_address(peer).version == 4:
        return (
            f"protocol ip pref 1 u32 match ip dst {peer}/32 match ip protocol 6 0xff "
            f"match u32 0x{_BOTH_CHOSEN} 0x{_BOTH_CHOSEN} at 20"
        )
    return (
        f"protocol ipv6 pref 2 u32 match ip6 dst {peer}/128 match ip6 protocol 6 0xff "
        f"match u32 0x{_BOTH_CHOSEN} 0x{_BOTH_CHOSEN} at 40"
    )


_CHOSEN = "chosen ports"


def _filter_line(what: str, peer: str, target: str) -> str:
    """A filter as a line of state."""
    return f"shaped: {what} to {ipaddress.ip_address(peer)} by {target}"


def _filter_states(text: str) -> list[str]:
    """u32 filters as lines of state: words, masks and offsets back to addresses and ports."""
    states = []
    for block in re.split(r"^filter ", text, flags=re.MULTILINE)[1:]:
        words = re.findall(r"match ([0-9a-f]{8})/([0-9a-f]{8}) at (\d+)", block)
        if not words:
            continue  # the hash table that holds the filters
        version = 4 if words[0][2] == "16" else 6
        *address, (port, mask, _) = words
        chosen = (port, mask) == (_BOTH_CHOSEN, _BOTH_CHOSEN)
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

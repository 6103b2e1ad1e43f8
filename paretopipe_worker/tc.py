"""A link profile as ``tc`` commands, and what ``tc`` prints as text that can be compared.

Everything here is pure. One htb class per interface holds the traffic between the stages' data
ports; all else stays in htb's direct queue, which has no rate and is served first. Sources:
tc-htb(8), tc-u32(8), tc-netem(8).
"""

from __future__ import annotations

import ipaddress
import json
import math
import re
from dataclasses import dataclass, fields
from typing import Any

HANDLE = "7070:"
"""Handle of our root qdisc: by it we know our own work, whatever files were lost."""

ROOT = f"htb {HANDLE}"
"""How `root_qdisc` writes it."""

FILTERS = ("parent", HANDLE)
"""Where ``tc filter show`` has to look."""

_CLASS = f"{HANDLE}1"
_LEAF = "7071:"
_ETHERNET_HEADER = 14
_QUEUE_PACKETS = 1000
_UNLIMITED_KBIT = 10_000_000
_UNIT_KBIT = {"bit": 1e-3, "Kbit": 1, "Mbit": 1e3, "Gbit": 1e6, "Tbit": 1e9}


class ShapingError(RuntimeError):
    """A link cannot be shaped or restored: interface or command, what is wrong, what is allowed."""


@dataclass(frozen=True)
class LinkProfile:
    """A network condition, the same in both directions.

    Parameters
    ----------
    rate_mbit
        Rate on the wire, Ethernet headers included; None for no limit.
    delay_ms
        One-way delay.
    """

    name: str
    rate_mbit: float | None = None
    delay_ms: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what no link has."""
        rate = self.rate_mbit
        if rate is not None and (not _number(rate) or not 0.001 <= rate <= 100_000):
            raise ShapingError(f"profile {self.name}: rate_mbit: 0.001 to 100000; got {rate!r}")
        delay = self.delay_ms
        if not _number(delay) or (delay != 0 and not 0.01 <= delay <= 10_000):
            raise ShapingError(f"profile {self.name}: delay_ms: 0, or 0.01 to 10000; got {delay!r}")

    @classmethod
    def parse(cls, text: str) -> LinkProfile:
        """Read a profile from a JSON object of this class's fields.

        Raises
        ------
        ShapingError
            When it is none, or a key or value is not allowed.
        """
        allowed = [entry.name for entry in fields(cls)]
        try:
            value = json.loads(text)
        except json.JSONDecodeError as error:
            raise ShapingError(f"--profile is not JSON: {error}; got {text!r}") from error
        if not isinstance(value, dict) or not isinstance(value.get("name"), str):
            raise ShapingError(f"--profile must be a JSON object with a name; got {text!r}")
        if unknown := sorted(set(value) - set(allowed)):
            raise ShapingError(
                f"profile {value['name']}: {unknown[0]}: unknown key; allowed: {', '.join(allowed)}"
            )
        return cls(**{key: entry for key, entry in value.items() if entry is not None})

    @property
    def shaped(self) -> bool:
        """Whether it changes anything."""
        return self.rate_mbit is not None or self.delay_ms > 0

    @property
    def rate_kbit(self) -> int:
        """The rate as tc can show it again without loss."""
        return _UNLIMITED_KBIT if self.rate_mbit is None else max(1, round(self.rate_mbit * 1000))


@dataclass(frozen=True)
class Shaping:
    """A profile and the traffic it is for.

    Parameters
    ----------
    peers
        Data addresses of the other stages, IPv4 or IPv6.
    ports
        Data ports of all stages: to a peer, what comes from or goes to one of them is shaped.
    """

    profile: LinkProfile
    peers: tuple[str, ...]
    ports: tuple[int, ...]

    def __post_init__(self) -> None:
        """Refuse addresses and ports that no filter can be made of."""
        if not self.peers or not self.ports:
            raise ShapingError("--peers and --ports must each name at least one")
        for peer in self.peers:
            try:
                ipaddress.ip_address(peer)
            except ValueError as error:
                raise ShapingError(f"--peers: {peer!r} is not an IP address") from error
        for port in self.ports:
            if not 1024 <= port <= 65535:
                raise ShapingError(f"--ports: 1024 to 65535, so that SSH stays free; got {port}")

    @property
    def filters(self) -> list[tuple[str, str, int]]:
        """What is shaped: (peer's address, ``sport`` or ``dport``, port), each once."""
        return [
            (peer, side, port)
            for peer in sorted(set(self.peers))
            for port in sorted(set(self.ports))
            for side in ("sport", "dport")
        ]


def apply_commands(shaping: Shaping, interface: str, mtu: int) -> list[list[str]]:
    """Commands that shape an interface whose root qdisc is the kernel's default.

    Parameters
    ----------
    mtu
        The interface's, in bytes: bursts are bounded in frames.
    """
    frame = mtu + _ETHERNET_HEADER
    rate = f"{_class_kbit(shaping.profile)}kbit"
    burst = _burst_bytes(shaping.profile, frame)
    commands = [
        # Class 0 is no class: what no filter takes goes through htb's direct queue.
        f"qdisc add dev {interface} root handle {HANDLE} htb default 0 "
        f"direct_qlen {_QUEUE_PACKETS}",
        f"class add dev {interface} parent {HANDLE} classid {_CLASS} htb rate {rate} ceil {rate} "
        f"burst {burst} cburst {burst} quantum {frame}",
        f"qdisc add dev {interface} parent {_CLASS} handle {_LEAF} {_leaf(shaping.profile, frame)}",
        *(
            f"filter add dev {interface} parent {HANDLE} {_match(*each)} flowid {_CLASS}"
            for each in shaping.filters
        ),
    ]
    # First GSO: htb lets a super-packet of up to 64 KB pass whole, and 31 KB take no time.
    return [set_gso(interface, 1), *(["tc", *command.split()] for command in commands)]


def delete_root(interface: str) -> list[str]:
    """Command that takes the root qdisc away; the kernel puts its own in its place."""
    return ["tc", "qdisc", "del", "dev", interface, "root"]


def set_gso(interface: str, segments: int) -> list[str]:
    """Command that bounds how many segments one packet handed to the interface holds."""
    return ["ip", "link", "set", "dev", interface, "gso_max_segs", str(segments)]


def expected_state(shaping: Shaping, interface: str, mtu: int) -> list[str]:
    """What `read_state` returns once `apply_commands` have run."""
    profile = shaping.profile
    return [
        f"interface {interface}",
        "gso_max_segs 1",
        f"root {ROOT}",
        f"class {_CLASS} rate {_class_kbit(profile)} kbit/s",
        f"leaf {_leaf(profile, mtu + _ETHERNET_HEADER)}",
        *sorted(f"shaped: {side} {port} to {peer}" for peer, side, port in shaping.filters),
    ]


def read_state(
    interface: str, gso_max_segs: int, qdiscs: list[Any], classes: str, filters: str
) -> list[str]:
    """What tc says of an interface, one fact a line; equal lists shape alike.

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
    state += [
        f"class {name} rate {round(float(rate) * _UNIT_KBIT[unit])} kbit/s"
        for name, rate, unit in re.findall(r"class htb (\S+) .*?rate ([\d.]+)([KMGT]?bit)", classes)
    ]
    state += [_leaf_state(each) for each in qdiscs if str(each.get("parent")).startswith(HANDLE)]
    return state + sorted(_filter_states(filters))


def root_qdisc(qdiscs: list[Any]) -> str:
    """Kind of the root qdisc, and its handle unless the kernel itself made it (handle 0)."""
    for each in qdiscs:
        if each.get("root"):
            handle = str(each.get("handle", "0:"))
            return str(each["kind"]) if handle == "0:" else f"{each['kind']} {handle}"
    return "none"


def _class_kbit(profile: LinkProfile) -> int:
    """Rate of the class: none to speak of where netem limits, the better limiter of the two."""
    return _UNLIMITED_KBIT if profile.delay_ms > 0 else profile.rate_kbit


def _burst_bytes(profile: LinkProfile, frame: int) -> int:
    """Size the bucket: one frame.

    htb sends while the bucket is not overdrawn, so one frame more than this passes at once after
    a pause: two in all. Every byte of it is time that a short transfer does not take (8 KB at
    20 Mbit/s must take 3.4 ms and takes 0.8 less), and with less than a frame the rate is missed
    wherever timers are late: 16 instead of 19 Mbit/s on a shared machine. Links far above 100
    Mbit/s would need more.
    """
    if profile.delay_ms > 0:
        return _UNLIMITED_KBIT // 8  # 1 ms of it: netem does the timing
    return frame


def _leaf(profile: LinkProfile, frame: int) -> str:
    """Queue inside the class, as tc takes it: netem where there is delay, else a plain queue."""
    if profile.delay_ms == 0:
        return f"pfifo limit {_QUEUE_PACKETS}"
    # What is under way, as whole frames, and a queue as long as any other.
    under_way = math.ceil(profile.rate_kbit * profile.delay_ms / 8 / frame)
    rate = "" if profile.rate_mbit is None else f" rate {profile.rate_kbit}kbit"
    return f"netem limit {under_way + _QUEUE_PACKETS} delay {profile.delay_ms:.2f}ms{rate}"


def _leaf_state(qdisc: Any) -> str:
    """Write what ``tc -j`` says of a leaf as `_leaf` does; netem has seconds, bytes per second."""
    options = qdisc["options"]
    delay_s = options.get("delay", {}).get("delay", 0)
    rate = options.get("rate", {}).get("rate", 0)
    delay = f" delay {delay_s * 1000:.2f}ms" if delay_s else ""
    rate = f" rate {round(rate / 125)}kbit" if rate else ""
    return f"leaf {qdisc['kind']} limit {options.get('limit')}{delay}{rate}"


def _match(peer: str, side: str, port: int) -> str:
    """Select what goes to a peer from or to a port; TCP and UDP keep it in the same place."""
    if ipaddress.ip_address(peer).version == 4:
        return f"protocol ip pref 1 u32 match ip dst {peer}/32 match ip {side} {port} 0xffff"
    return f"protocol ipv6 pref 2 u32 match ip6 dst {peer}/128 match ip6 {side} {port} 0xffff"


def _filter_states(text: str) -> list[str]:
    """u32 filters as lines of state: words, masks and offsets back to addresses and ports."""
    states = []
    for block in re.split(r"^filter ", text, flags=re.MULTILINE)[1:]:
        words = re.findall(r"match ([0-9a-f]{8})/([0-9a-f]{8}) at (\d+)", block)
        if not words:
            continue  # the hash table that holds the filters
        *address, (port, mask, _) = words
        packed = bytes.fromhex("".join(word for word, _, _ in address))
        places = [int(offset) for _, _, offset in words]
        known = {4: [16, 20], 16: [24, 28, 32, 36, 40]}.get(len(packed)) == places
        if not known or not re.search(rf"flowid {_CLASS}\b", block) or mask not in _SIDES:
            states.append(f"unknown filter: {' '.join(block.split())}")
            continue
        side = _SIDES[mask]
        number = int(port, 16) >> (16 if side == "sport" else 0)
        states.append(f"shaped: {side} {number} to {ipaddress.ip_address(packed)}")
    return states


_SIDES = {"ffff0000": "sport", "0000ffff": "dport"}


def _number(value: object) -> bool:
    """Tell a finite number from everything else JSON may bring."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

"""What one host is asked to do to the packets it sends to the other stages."""

from __future__ import annotations

import ipaddress
import json
from dataclasses import dataclass
from typing import Any

from paretopipe_worker.link.conditions import Condition, Engine, Way
from paretopipe_worker.link.traces import Timetable
from paretopipe_worker.shaping import ShapingError
from paretopipe_worker.usertext import shown

CHOSEN_FROM = 0x8000
"""The kernel chooses ports from here on (``net.ipv4.ip_local_port_range`` is 32768 to 60999 unless
somebody changed it). No data port may be among them: the port of the control channel comes right
after a data port and must not be shaped. A single bit marks these ports, so that one filter finds
the connections that have such a port at both ends."""


@dataclass(frozen=True)
class EgressSpec:
    """What one host does to the packets it sends to the other stages.

    Parameters
    ----------
    name
        Name of the link profile.
    ways
        The shaped ways out of this host, one for each peer. Without any, the link stays as it is.
    ports
        Data ports of all stages. A packet to a peer is shaped if it comes from or goes to one of
        them, or if it is TCP between two ports that the kernel chose.
    engine
        Who shapes; ``none`` until that is known.
    timetable
        When each segment of the link's trace begins; None where the link follows no trace. Each
        way's `trace` has one condition for each segment.

    Raises
    ------
    ShapingError
        When no filter can be made of an address or a port, or no kernel takes what is asked: the
        key path or the argument, what was given, and what is allowed.
    """

    name: str
    ways: tuple[Way, ...]
    ports: tuple[int, ...]
    engine: Engine = "none"
    timetable: Timetable | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be shaped."""
        self._check_peers()
        self._check_conditions()
        if not self.ports:
            raise ShapingError("--ports must name at least one")
        for port in self.ports:
            if not 1024 <= port < CHOSEN_FROM - 1:
                raise ShapingError(
                    f"--ports: 1024 to {CHOSEN_FROM - 2}, so that SSH and the control channel stay "
                    f"free; got {port}"
                )

    def _check_peers(self) -> None:
        """Refuse a peer that is no address, or is there twice."""
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

    def _check_conditions(self) -> None:
        """Refuse a trace of another length than the timetable's, and what no kernel takes."""
        segments = len(self.timetable.starts_s) if self.timetable else 0
        for number, way in enumerate(self.ways):
            where = f"profile {self.name}: ways[{number}]"
            if len(way.trace) != segments:
                raise ShapingError(
                    f"{where}.trace: {len(way.trace)} conditions for {segments} segments"
                )
            if way.condition.duplicate_percent and len(self.ways) > 1 and self.engine == "netem":
                raise ShapingError(
                    f"{where}.condition.duplicate_percent: recent kernels refuse a netem that "
                    f"duplicates beside another netem, and this host sends to {len(self.ways)} "
                    "peers over shaped ways; allowed where there is only one"
                )

    @classmethod
    def parse(cls, text: str, ports: tuple[int, ...], engine: Engine = "none") -> EgressSpec:
        """Read a profile from JSON: ``{"name": …, "ways": [{"peer": …, "condition": {…}}, …]}``.

        A profile that follows a trace also has a ``timetable``, and each of its ways a ``trace``.

        Raises
        ------
        ShapingError
            When the text is no such profile, or a key or value is not allowed: the key path, and
            what is allowed.
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
        """The conditions of every way, those of all its segments among them."""
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

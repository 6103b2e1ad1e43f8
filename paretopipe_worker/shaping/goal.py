"""What a host's link and TCP are to be, and how to get there from what the kernel made."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from paretopipe_worker.host.daemons import read_json
from paretopipe_worker.host.lease import Lease
from paretopipe_worker.link.conditions import TcpSettings
from paretopipe_worker.shaping import interfaces, tc, tcp_settings
from paretopipe_worker.shaping.interfaces import Interface
from paretopipe_worker.shaping.tc import Shaping


def what_was(state_dir: Path) -> dict[str, Any] | None:
    """What was saved of the interface and TCP before we shaped; None where nothing was.

    Its keys are ``interface``, ``gso_max_segs``, ``state`` and ``tcp``, which is empty where it
    was left alone.
    """
    saved = read_json(state_dir / "before.json")
    return None if saved is None else {"tcp": {}, **saved}


@dataclass(frozen=True)
class Goal:
    """What an interface and TCP are to be, and how to get there from what the kernel made.

    Attributes
    ----------
    asked
        What was asked for, as JSON reads it back.
    original, tcp
        TCP's settings before us, and as they are to be: the same names.
    state
        Lines of state once all is in force.
    """

    shaping: Shaping
    lease: Lease
    interface: Interface
    asked: dict[str, Any]
    original: dict[str, str]
    tcp: dict[str, str]
    state: list[str]

    @classmethod
    def of(
        cls,
        shaping: Shaping,
        tcp: TcpSettings | None,
        lease: Lease,
        state_dir: Path,
        interface: Interface,
    ) -> Goal:
        """Make one, for an interface as it is or as it is already shaped."""
        saved = what_was(state_dir)
        now = tcp_settings.read(interface.name) | (saved["tcp"] if saved else {})
        then = {} if tcp is None else tcp_settings.wanted(tcp, now)
        if shaping.engine != "none":
            state = tc.expected_state(shaping, interface.name, interface.mtu)
        elif saved and interface.root == tc.ROOT:
            state = saved["state"]
        else:
            state = interface.state
        asked = {
            **asdict(shaping),
            "asked": {
                "tcp": None if tcp is None else asdict(tcp),
                "lease": str(lease.path),
                "lease_s": lease.seconds,
            },
        }
        return cls(
            shaping,
            lease,
            interface,
            json.loads(json.dumps(asked)),
            {name: now[name] for name in then},
            then,
            state + tcp_settings.lines(then),
        )

    @property
    def commands(self) -> list[list[str]]:
        """Commands from what the kernel made to the goal."""
        name = self.interface.name
        made = tcp_settings.commands(name, self.original, self.tcp)
        if self.shaping.engine != "none":
            made += tc.apply_commands(self.shaping, name, self.interface.mtu)
        return made

    def now(self) -> list[str]:
        """What the kernel says now, in the lines of `state`."""
        interface = interfaces.find(self.interface.name)
        values = tcp_settings.read(self.interface.name)
        return (interface.state if interface else []) + tcp_settings.lines(
            {name: values[name] for name in self.tcp}
        )

    def recorded(self, state_dir: Path) -> bool:
        """Whether just this was applied last."""
        last = read_json(state_dir / "link.json")
        return last is not None and {**self.asked, "tcp": last.get("tcp")} == last

"""The state that a host's link and TCP shall have, and the commands that lead there."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from paretopipe_worker.host.daemons import read_json
from paretopipe_worker.host.lease import Lease
from paretopipe_worker.link.conditions import TcpSettings
from paretopipe_worker.shaping import interfaces, tc, tc_state, tcp_settings
from paretopipe_worker.shaping.egress import EgressSpec
from paretopipe_worker.shaping.interfaces import Interface


def what_was(state_dir: Path) -> dict[str, Any] | None:
    """Read what was saved of the interface and of TCP before we shaped; None if nothing was.

    The keys are ``interface``, ``gso_max_segs``, ``state`` and ``tcp``, which is empty if TCP was
    left alone.
    """
    saved = read_json(state_dir / "before.json")
    return None if saved is None else {"tcp": {}, **saved}


@dataclass(frozen=True)
class Goal:
    """The state that an interface and TCP shall have.

    Attributes
    ----------
    asked
        What was asked for, as JSON reads it back.
    original, tcp
        TCP's settings before we changed them, and as they shall be, under the same names.
    state
        The lines of state once everything is in force.
    """

    egress: EgressSpec
    lease: Lease
    interface: Interface
    asked: dict[str, Any]
    original: dict[str, str]
    tcp: dict[str, str]
    state: list[str]

    @classmethod
    def of(
        cls,
        egress: EgressSpec,
        tcp: TcpSettings | None,
        lease: Lease,
        state_dir: Path,
        interface: Interface,
    ) -> Goal:
        """Make a goal for an interface, which may be shaped already."""
        saved = what_was(state_dir)
        now = tcp_settings.read(interface.name) | (saved["tcp"] if saved else {})
        then = {} if tcp is None else tcp_settings.wanted(tcp, now)
        if egress.engine != "none":
            state = tc_state.expected_state(egress, interface.name, interface.mtu)
        elif saved and interface.root == tc.ROOT:
            state = saved["state"]
        else:
            state = interface.state
        asked = {
            **asdict(egress),
            "asked": {
                "tcp": None if tcp is None else asdict(tcp),
                "lease": str(lease.path),
                "lease_s": lease.seconds,
            },
        }
        return cls(
            egress,
            lease,
            interface,
            json.loads(json.dumps(asked)),
            {name: now[name] for name in then},
            then,
            state + tcp_settings.lines(then),
        )

    @property
    def commands(self) -> list[list[str]]:
        """The commands that lead from the kernel's defaults to the goal."""
        name = self.interface.name
        made = tcp_settings.commands(name, self.original, self.tcp)
        if self.egress.engine != "none":
            made += tc.apply_commands(self.egress, name, self.interface.mtu)
        return made

    def now(self) -> list[str]:
        """Read what the kernel says now, in lines like those of `state`."""
        interface = interfaces.find(self.interface.name)
        values = tcp_settings.read(self.interface.name)
        return (interface.state if interface else []) + tcp_settings.lines(
            {name: values[name] for name in self.tcp}
        )

    def recorded(self, state_dir: Path) -> bool:
        """Tell whether the last link applied is exactly this one."""
        last = read_json(state_dir / "link.json")
        return last is not None and {**self.asked, "tcp": last.get("tcp")} == last

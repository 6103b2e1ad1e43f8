"""TCP's settings on this host, as the kernel keeps them for a network namespace.

A namespace may only choose among the congestion controls that the machine allows to all. Where the
one asked for is not, it is set on the data interface's routes instead, which every namespace may.
"""

from __future__ import annotations

import os
from pathlib import Path

from paretopipe_worker.link.conditions import TcpSettings
from paretopipe_worker.shaping import interfaces
from paretopipe_worker.shaping.tc import ShapingError

_SYSCTL = Path("/proc/sys/net/ipv4")
_CONTROL = "tcp_congestion_control"
_BUFFERS = ("tcp_wmem", "tcp_rmem")
_NAMES = (_CONTROL, "tcp_slow_start_after_idle", "tcp_no_metrics_save", *_BUFFERS)
_ROUTES = "congctl"
"""Key of what the data interface's routes say; empty where they say nothing."""


def read(interface: str) -> dict[str, str]:
    """Read the settings as they are now, by the names below ``net.ipv4``."""
    values = {name: _value(name) for name in _NAMES}
    if not _machine():
        values[_ROUTES] = " ".join(sorted({_control(route) for _, route in _routes(interface)}))
    return values


def wanted(settings: TcpSettings, now: dict[str, str]) -> dict[str, str]:
    """What `read` is to return for `settings`: the keys among it that matter.

    Raises
    ------
    ShapingError
        When the congestion control is none that this kernel has.
    """
    control = settings.congestion_control
    values = {
        _CONTROL: control,
        "tcp_slow_start_after_idle": str(int(settings.slow_start_after_idle)),
        # Else the kernel remembers a slow path from one session to the next.
        "tcp_no_metrics_save": "1",
    }
    if not _machine() and control not in _value("tcp_allowed_congestion_control").split():
        if control not in _value("tcp_available_congestion_control").split():
            raise _unknown(control)
        del values[_CONTROL]
        values[_ROUTES] = control
    if (bound := settings.max_buffer_bytes) is not None:
        for name in _BUFFERS:
            least, default, _ = map(int, now[name].split())
            values[name] = f"{least} {min(default, bound)} {bound}"
    return values


def commands(interface: str, now: dict[str, str], then: dict[str, str]) -> list[list[str]]:
    """Commands that bring the settings from `now` to `then`; keys not in `then` stay."""
    changed = {name: value for name, value in then.items() if now.get(name) != value}
    control = changed.pop(_ROUTES, None)
    made = [["sysctl", "-w", f"net.ipv4.{name}={value}"] for name, value in changed.items()]
    if control is not None:
        made += [
            ["ip", family, "route", "change", *_with_control(route, control), "dev", interface]
            for family, route in _routes(interface)
        ]
    return made


def run(command: list[str]) -> None:
    """Run one of `commands`; sysctl's part is done here, since not every system has it."""
    if command[0] != "sysctl":
        interfaces.run(command)
        return
    name, _, value = command[-1].removeprefix("net.ipv4.").partition("=")
    try:
        (_SYSCTL / name).write_text(value, encoding="utf-8")
    except FileNotFoundError as error:
        raise _unknown(value) from error
    except OSError as error:
        raise interfaces.refusal(command[-1], str(error.strerror)) from error


def lines(values: dict[str, str]) -> list[str]:
    """Write settings as lines of state."""
    return [f"net.ipv4.{name} = {value}" for name, value in values.items() if name != _ROUTES] + [
        f"routes with congctl {values[name]}" for name in values if name == _ROUTES and values[name]
    ]


def effective(values: dict[str, str]) -> dict[str, str]:
    """What `read` returned as a connection will have it: routes before the namespace."""
    control = values.get(_ROUTES) or values[_CONTROL]
    return {name: values[name] for name in _NAMES} | {_CONTROL: control}


def _value(name: str) -> str:
    """Value of a setting, its words a space apart."""
    return " ".join((_SYSCTL / name).read_text(encoding="utf-8").split())


def _machine() -> bool:
    """Whether this is the machine's own namespace, the only one that may allow what it lists."""
    return os.access(_SYSCTL / "tcp_allowed_congestion_control", os.W_OK)


def _unknown(control: str) -> ShapingError:
    """Say that the kernel has no congestion control of this name."""
    return ShapingError(
        f"congestion_control: this kernel has no {control}; "
        f"net.ipv4.tcp_available_congestion_control: {_value('tcp_available_congestion_control')}"
    )


def _routes(interface: str) -> list[tuple[str, list[str]]]:
    """Routes of an interface: the option of their family, and their words.

    Link-local ones are left out: no data takes them, and the kernel adds them when it likes.
    """
    families = ["-4", *(["-6"] if _SYSCTL.with_name("ipv6").exists() else [])]
    return [
        (family, [word for word in line.split() if word not in ("linkdown", "dead")])
        for family in families
        for line in interfaces.run(["ip", family, "route", "show", "dev", interface]).splitlines()
        if not line.startswith("fe80:")
    ]


def _control(route: list[str]) -> str:
    """The congestion control a route says; empty where none."""
    return route[route.index(_ROUTES) + 1] if _ROUTES in route else ""


def _with_control(route: list[str], control: str) -> list[str]:
    """A route's words with another congestion control, or with none."""
    if _ROUTES in route:
        place = route.index(_ROUTES)
        route = route[:place] + route[place + 2 :]
    return [*route, *([_ROUTES, control] if control else [])]

"""TCP's settings on this host, as the kernel keeps them for a network namespace.

A namespace may choose only among the congestion controls that the machine allows to all users. If
the one asked for is not among them, it is set on the routes of the data interface instead, which
every namespace may do.
"""

from __future__ import annotations

import os

from paretopipe_worker.link.conditions import TcpSettings
from paretopipe_worker.link.state import SYSCTL, TCP_NAMES
from paretopipe_worker.shaping import ShapingError, interfaces

_CONTROL = "tcp_congestion_control"
_BUFFERS = ("tcp_wmem", "tcp_rmem")
_ROUTES = "congctl"
"""Key for the congestion control of the data interface's routes; empty if they name none."""


def read(interface: str) -> dict[str, str]:
    """Read the settings as they are now, by their names below ``net.ipv4``."""
    values = {name: _value(name) for name in TCP_NAMES}
    if not _machine():
        values[_ROUTES] = " ".join(sorted({_control(route) for _, route in _routes(interface)}))
    return values


def wanted(settings: TcpSettings, now: dict[str, str]) -> dict[str, str]:
    """Return the values that `read` shall find for `settings`, without those that do not matter.

    Raises
    ------
    ShapingError
        When this kernel does not have the congestion control.
    """
    control = settings.congestion_control
    values = {
        _CONTROL: control,
        "tcp_slow_start_after_idle": str(int(settings.slow_start_after_idle)),
        # Without it the kernel would remember a slow path from one session to the next.
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
    """Return the commands that bring the settings from `now` to `then`; other keys stay."""
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
    """Run one of `commands`; those of sysctl are done here, since not every system has sysctl.

    Raises
    ------
    ShapingError
        When it fails: the command or setting, and what the kernel said.
    """
    if command[0] != "sysctl":
        interfaces.run(command)
        return
    name, _, value = command[-1].removeprefix("net.ipv4.").partition("=")
    try:
        (SYSCTL / name).write_text(value, encoding="utf-8")
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
    """Turn what `read` returned into what a connection gets: routes go before the namespace."""
    control = values.get(_ROUTES) or values[_CONTROL]
    return {name: values[name] for name in TCP_NAMES} | {_CONTROL: control}


def _value(name: str) -> str:
    """Value of a setting, its words separated by single spaces."""
    return " ".join((SYSCTL / name).read_text(encoding="utf-8").split())


def _machine() -> bool:
    """Whether this is the machine's own namespace, which alone may change what it allows."""
    return os.access(SYSCTL / "tcp_allowed_congestion_control", os.W_OK)


def _unknown(control: str) -> ShapingError:
    """Make the error that says that the kernel has no congestion control of this name."""
    return ShapingError(
        f"congestion_control: this kernel has no {control}; "
        f"net.ipv4.tcp_available_congestion_control: {_value('tcp_available_congestion_control')}"
    )


def _routes(interface: str) -> list[tuple[str, list[str]]]:
    """Routes of an interface: for each, the option of its family, and its words.

    Link-local routes are left out: no data takes them, and the kernel adds them at any time.
    """
    families = ["-4", *(["-6"] if SYSCTL.with_name("ipv6").exists() else [])]
    return [
        (family, [word for word in line.split() if word not in ("linkdown", "dead")])
        for family in families
        for line in interfaces.run(["ip", family, "route", "show", "dev", interface]).splitlines()
        if not line.startswith("fe80:")
    ]


def _control(route: list[str]) -> str:
    """The congestion control that a route names; empty if it names none."""
    return route[route.index(_ROUTES) + 1] if _ROUTES in route else ""


def _with_control(route: list[str], control: str) -> list[str]:
    """A route's words with another congestion control, or with none."""
    if _ROUTES in route:
        place = route.index(_ROUTES)
        route = route[:place] + route[place + 2 :]
    return [*route, *([_ROUTES, control] if control else [])]

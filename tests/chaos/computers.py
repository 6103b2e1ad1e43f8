"""Faults of whole computers that are reached by SSH: rebooted, cut off, unplugged."""

from __future__ import annotations

from tests.chaos.grounds import Remote
from tests.chaos.processes import LAPSED, SIGKILLED
from tests.chaos.strikes import Kind, Strike
from tests.helpers.machines import Host


def reboot(strike: Strike) -> None:
    """Switch a host off and on; its peers may hear of that or not."""
    host = _host(strike)
    host.stop(cut_off=strike.drawn.random() < 0.5)
    host.start()


def lose_connection(strike: Strike) -> None:
    """End the controller's connection to a host, which may come back at once."""
    host = _host(strike)
    host.kill_sshd()
    host.start_sshd()


def cut_off(strike: Strike) -> None:
    """Let the controller reach a host no more, until that has given it up."""
    host = _host(strike)
    host.kill_sshd()
    try:
        strike.until(lambda: not strike.pids("stage"), "a host that gave up its controller")
    finally:
        host.start_sshd()


def unplug(strike: Strike) -> None:
    """Pull a host's cable, which carries data and SSH alike, until it gave up its controller."""
    port = f"port{_host(strike).number}"
    strike.ground.outside("ip", "link", "set", port, "down")
    try:
        strike.until(lambda: not strike.pids("stage"), "a host that gave up its controller")
    finally:
        strike.ground.outside("ip", "link", "set", port, "up")


def _host(strike: Strike) -> Host:
    """The victim."""
    assert isinstance(strike.ground, Remote)
    return strike.ground.machine(strike.victim)


GONE = r"not reached|[Uu]nreachable|Failed to connect|Connection (closed|refused|timed out)"

KINDS = (
    Kind("reboot", "ssh", 6, reboot, rf"as a reboot does|{SIGKILLED}|{GONE}|nothing came"),
    Kind("lose-connection", "ssh", 4, lose_connection, rf"{GONE}|{LAPSED}"),
    Kind("cut-off", "ssh", 4, cut_off, rf"{GONE}|{LAPSED}"),
    Kind("unplug", "ssh", 4, unplug, rf"{GONE}|{LAPSED}|nothing came|no answer"),
)

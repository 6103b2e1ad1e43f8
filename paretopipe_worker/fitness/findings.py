"""What is wrong with a host, or worth a note, and the table that says it of all hosts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

CHECKS = (
    *("reachable", "sudo", "system", "architecture", "kernel", "page size", "python", "disk"),
    *("memory", "swap", "netem", "torch", "gpu", "governor", "throttled", "ports", "path"),
    *("clock", "sweep"),
)
"""Names of all checks, in the order of the table."""

_APART = "  "
_LONGEST = 600
_CONTROL = re.compile(r"[^\x20-\x7e\u00a0-\uffff]+")


class AllowError(ValueError):
    """A check that is to be allowed is none; the text lists them."""


@dataclass(frozen=True)
class Finding:
    """What a check found on a host: a problem, which keeps a sweep from beginning, or a note."""

    host: str
    check: str
    text: str
    note: bool = False


def allowed(found: Iterable[Finding], checks: Sequence[str]) -> list[Finding]:
    """Make notes of the problems that these checks found.

    Raises
    ------
    AllowError
        When there is no such check.
    """
    if unknown := [name for name in checks if name not in CHECKS]:
        raise AllowError(
            f"preflight_allow: there is no check {', '.join(map(repr, unknown))}; allowed: "
            f"{', '.join(CHECKS)}"
        )
    return [replace(each, note=each.note or each.check in checks) for each in found]


def table(found: Iterable[Finding], hosts: Sequence[str]) -> str:
    """Print findings, those of a host together: a heading, then one line each.

    Parameters
    ----------
    hosts
        Names of all hosts, in order.
    """
    order = sorted(
        found, key=lambda each: (hosts.index(each.host), CHECKS.index(each.check), each.note)
    )
    rows = [(each.host, each.check, _line(each)) for each in order]
    rows = [("host", "check", "what is the matter"), *dict.fromkeys(rows)]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return "\n".join(
        _APART.join((row[0].ljust(widths[0]), row[1].ljust(widths[1]), row[2])) for row in rows
    )


def _line(finding: Finding) -> str:
    """A finding's text on one line, without what could steer a terminal, and not too long."""
    text = " ".join(_CONTROL.sub(" ", finding.text).split())
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
    return f"note: {text}" if finding.note else text

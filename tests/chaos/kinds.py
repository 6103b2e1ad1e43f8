"""All kinds of faults, by name."""

from __future__ import annotations

from tests.chaos import computers, networks, places, processes

KINDS = {
    kind.name: kind
    for kinds in (processes.KINDS, networks.KINDS, places.KINDS, computers.KINDS)
    for kind in kinds
}

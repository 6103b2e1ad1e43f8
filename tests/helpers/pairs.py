"""Two processes that measure the path between them, started as the playbook starts them."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from paretopipe_worker.records.pairs import Pair, Place, Settings
from tests import ROOT
from tests.helpers.namespaces import Namespace

BRIEF = Settings(
    goodput_s=0.3,
    goodput_mb=20,
    transfer_bytes=(1_000, 100_000),
    warm_repeats=5,
    idle_repeats=1,
    datagrams=140,
    datagram_interval_s=0.002,
    patience_s=20,
)
"""Enough for every number of a table."""

SECRET = "a secret of the tests, long enough for them"

BARE = (
    *(sys.executable, "-I", "-S", "-c"),
    f"import sys; sys.path.insert(0, {str(ROOT)!r}); from paretopipe_worker.__main__ import main; "
    "sys.exit(main(['pair']))",
)
"""Runs the command by the standard library alone, as on a host on which nothing is installed."""


def task(places: Sequence[Place], rank: int, settings: Settings, **more: Any) -> str:
    """What one of two hosts is told."""
    said = {
        "name": "links/test",
        "rank": rank,
        "hosts": [asdict(place) for place in places],
        "settings": asdict(settings),
        "secret": SECRET,
        "deadline_s": 60.0,
    }
    return json.dumps(said | more)


def start(told: str, host: Namespace | None = None) -> subprocess.Popen[str]:
    """Start to measure as one of two hosts."""
    with host.entered() if host else contextlib.nullcontext():
        process = subprocess.Popen(
            BARE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    assert process.stdin is not None
    process.stdin.write(told)
    process.stdin.close()
    process.stdin = None  # else `communicate` would flush it
    return process


def found(process: subprocess.Popen[str]) -> Pair:
    """What a process printed."""
    from analysis.links import PAIR

    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return PAIR.validate_json(output)


def measured(
    places: Sequence[Place],
    settings: Settings = BRIEF,
    hosts: Sequence[Namespace | None] = (None, None),
    **more: Any,
) -> tuple[Pair, Pair]:
    """Measure a pair; what each of both hosts found. `more` holds keys of rank 0's task."""
    tasks = [task(places, 0, settings, **more), task(places, 1, settings)]
    first, second = [start(told, host) for told, host in zip(tasks, hosts, strict=True)]
    return found(first), found(second)


def local(ports: Sequence[int]) -> tuple[Place, Place]:
    """Two hosts that are this one."""
    one, two = (Place(name, "127.0.0.1", port) for name, port in zip("ab", ports, strict=True))
    return one, two


def longer(settings: Settings = BRIEF, **changed: Any) -> Settings:
    """Settings with other values."""
    return replace(settings, **changed)

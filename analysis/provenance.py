"""Where results come from: code, packages, spec, and the hosts.

Of an inventory and of Ansible's facts only the names listed here are written, and only plain
values, since passwords, keys and vaults stand beside them under names that nobody can foresee.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from paretopipe_worker import bounded
from paretopipe_worker.link import traces
from paretopipe_worker.link.presets import PRESETS
from paretopipe_worker.link.profiles import UNSHAPED, LinkSpec
from paretopipe_worker.plan.experiment import Experiment

VARIABLES = (
    *("data_address", "data_port", "threads", "device_emulated", "speed_hint", "memory_mb"),
    *("device", "cuda_graphs", "runtime", "busy", "side_by_side"),
    *("lease_s", "worker_home", "worker_python", "worker_governor", "worker_state_dir"),
    "worker_root_dir",
    *("common_install", "netem_emulate", "netem_state_dir"),
    *("ansible_connection", "ansible_python_interpreter", "ansible_become"),
)
"""Host variables that describe how a host took part."""

UNTOLD = ("worker_index_url", "worker_torch_index_url", "worker_find_links", "worker_wheelhouse")
"""Places of packages, which may hold a password. What was installed from them is in the records."""

FACTS = (
    *("architecture", "machine", "kernel", "kernel_version", "system", "os_family"),
    *("distribution", "distribution_version", "distribution_release", "python_version"),
)
"""Ansible's facts that describe a host."""

_MOST_BYTES = 256 * bounded.MEGABYTE


def told(values: Mapping[str, Any] | None, names: Iterable[str]) -> dict[str, Any] | None:
    """Those of `values` that have one of these names and are plain, or mappings to numbers."""
    if values is None:
        return None
    return {name: values[name] for name in names if name in values and _plain(values[name])}


def _plain(value: Any) -> bool:
    """Whether a value may be written: it cannot hold what nobody foresaw."""
    if isinstance(value, Mapping):
        return all(isinstance(each, int | float | None) for each in value.values())
    return isinstance(value, str | int | float | None)


def written(experiment: Experiment) -> dict[str, Any]:
    """An experiment as a spec that asks for the same, as a YAML file would hold it.

    Returns
    -------
    What :func:`paretopipe_worker.plan.spec.parse` takes.
    """
    links = [_link(link) for link in experiment.links]
    return asdict(experiment) | {"links": links}


def _link(link: LinkSpec) -> str | dict[str, Any]:
    """A link as a spec has it: a preset by its name, any other with everything it does."""
    if link.name == UNSHAPED or link.name in PRESETS:
        return link.name
    document = asdict(link)
    if link.timetable is not None:
        return {"name": link.name, "period_s": link.timetable.period_s, **_trace(link)}
    del document["trace"], document["timetable"], document["certified"]
    way = document.pop("return_way")
    return document if way is None else document | {"return": way}


def _trace(link: LinkSpec) -> dict[str, str]:
    """The lines of the trace that a link follows, and its direction."""
    assert link.timetable is not None
    forward, back = ([getattr(hop, way) for hop in link.trace] for way in ("forward", "back"))
    goes, comes = (any(part.shaped for part in way) for way in (forward, back))
    direction = "both" if goes and comes else "forward" if goes else "back"
    return {
        "trace": traces.write(link.timetable, forward if goes else back),
        "direction": direction,
    }


def checkout(directory: Path) -> dict[str, Any] | None:
    """The git commit of `directory`, and whether files differ from it; null if it has none."""
    top = _git(directory, "rev-parse", "--show-toplevel")
    commit = _git(directory, "rev-parse", "--verify", "HEAD")
    changes = _git(directory, "status", "--porcelain")
    if top is None or commit is None or changes is None or Path(top).resolve() != directory:
        return None
    return {"commit": commit, "dirty": bool(changes)}


def packages() -> dict[str, str]:
    """The version of every package in this environment."""
    found = {str(package.name): package.version for package in metadata.distributions()}
    return dict(sorted(found.items(), key=lambda entry: entry[0].lower()))


def _git(directory: Path, *arguments: str) -> str | None:
    """Output of git in `directory`; null if git fails or is not installed."""
    try:
        done = subprocess.run(
            ["git", "-C", str(directory), *arguments], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def read_manifest(folder: Path) -> Any:
    """Read the manifest of a run's folder.

    Raises
    ------
    OSError, ValueError, RecursionError
        When there is none, or it cannot be read.
    """
    text = bounded.text(folder / "manifest.json", _MOST_BYTES)
    # Earlier versions wrote NaN, which no JSON has, where there was no reason.
    return json.loads(text, parse_constant=lambda _: None)

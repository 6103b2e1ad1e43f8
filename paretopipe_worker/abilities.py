"""What this host can execute stages with: its runtimes, its devices and their dtypes."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
from typing import Any

from paretopipe_worker.execution.runtimes import RUNTIMES


def abilities() -> dict[str, Any]:
    """What this host can: runtimes with their versions, and devices with dtypes of torch."""
    import torch  # the command line must not

    dtypes = ["float32", "bfloat16", "float16"]
    devices: dict[str, Any] = {"cpu": {"dtypes": dtypes}}
    for number in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(number)
        devices[f"cuda:{number}"] = {
            "name": found.name,
            "memory_bytes": found.total_memory,
            "dtypes": dtypes,
        }
    return {"runtimes": {name: _installed(name) for name in RUNTIMES}, "devices": devices}


def _installed(name: str) -> dict[str, str]:
    """A runtime's version, or why it cannot be used."""
    package = RUNTIMES[name].package
    try:
        importlib.import_module(package)
        return {"version": importlib.metadata.version(package)}
    except Exception as error:  # what a broken installation raises is the reason
        return {"missing": f"{type(error).__name__}: {error}".splitlines()[0]}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``abilities`` to the worker's command line."""
    parser = commands.add_parser("abilities", help="list runtimes and devices of this host as JSON")
    parser.set_defaults(run=_abilities)


def _abilities(options: argparse.Namespace) -> int:
    """``abilities``: print one line of JSON."""
    print(json.dumps(abilities()))
    return 0

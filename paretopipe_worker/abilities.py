"""What this host can execute stages with: runtimes, devices, and dtypes that they compute in."""

from __future__ import annotations

import argparse
import importlib
import json
from typing import Any


def abilities() -> dict[str, dict[str, Any]]:
    """Find out what this host can.

    Returns
    -------
    ``runtimes`` by name: each its ``version`` and the kinds of ``devices`` that it can use here, or
    why it is ``missing``. ``devices`` by name: each the ``dtypes`` in which torch computed there
    just now; a GPU also its ``name`` and ``memory_bytes``.
    """
    from paretopipe_worker.execution.runtimes import RUNTIMES

    return {
        "runtimes": {name: _runtime(each.modules["cpu"]) for name, each in RUNTIMES.items()},
        "devices": _devices(),
    }


def _runtime(module: str) -> dict[str, Any]:
    """Version and devices of a runtime, or why it is missing."""
    from paretopipe_worker.execution.api import ExecutionError

    try:
        version, kinds = importlib.import_module(module).here()
    except ExecutionError as error:
        return {"missing": str(error)}
    return {"version": version, "devices": list(kinds)}


def _devices() -> dict[str, dict[str, Any]]:
    """All devices of this host."""
    import torch

    found: dict[str, dict[str, Any]] = {"cpu": {"dtypes": _dtypes("cpu")}}
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(number)
        found[f"cuda:{number}"] = {
            "name": properties.name,
            "memory_bytes": properties.total_memory,
            "dtypes": _dtypes(f"cuda:{number}"),
        }
    return found


def _dtypes(device: str) -> list[str]:
    """Dtypes in which torch computes a convolution and a matrix product on a device."""
    import torch

    from paretopipe_worker.cuts import EAGER
    from paretopipe_worker.execution.runtimes import RUNTIMES

    able = []
    for name in RUNTIMES[EAGER].dtypes:
        like = {"dtype": getattr(torch, name), "device": device}
        try:
            torch.nn.functional.conv2d(
                torch.ones(1, 2, 4, 4, **like), torch.ones(2, 2, 3, 3, **like)
            )
            (torch.ones(2, 2, **like) @ torch.ones(2, 2, **like)).cpu()
        except RuntimeError:  # torch has no kernel for it there
            continue
        able.append(name)
    return able


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``abilities`` to the worker's command line."""
    parser = commands.add_parser(
        "abilities", help="what this host can execute stages with, as one line of JSON"
    )
    parser.set_defaults(run=_abilities)


def _abilities(options: argparse.Namespace) -> int:
    """``abilities``: print them."""
    print(json.dumps(abilities()))
    return 0

"""What it takes to do a run again, as the page tells it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import yaml

from analysis.provenance import read_manifest, written
from analysis.run import Run
from paretopipe_worker.plan import identity

_SHOWN = ("paretopipe", "python", "torch", "torchvision", "onnxruntime")
_LONGEST = 50_000
"""Characters of a spec that the page shows."""


def reproduction(run: Run) -> dict[str, Any]:
    """Commands, versions and digests of a run.

    Returns
    -------
    ``commands``, each with what it does; ``facts``, pairs of a name and a value; ``hosts``, the
    versions on each; and ``spec``, what the run was asked to measure, as YAML.
    """
    name = shlex.quote(f"results/{run.plan.run}")
    commands = [
        (
            "The spec below, saved as experiment.yml, measured again on hosts of your own",
            "python -m analysis.reproduce experiment.yml -i INVENTORY",
        ),
        (
            "The same run, sealed in one file by analysis.reproduce, measured again and compared",
            "python -m analysis.reproduce --from ARCHIVE.zip -i INVENTORY",
        ),
        (
            "Every table, figure and this page, made again from the raw records",
            f"python -m analysis.pareto {name}",
        ),
    ]
    return {
        "commands": commands,
        "facts": _facts(run),
        "hosts": _versions(run),
        "spec": _spec(run),
    }


def _spec(run: Run) -> str:
    """What was to be measured, unless the traces of its links make it too long for a page."""
    # JSON has lists in place of tuples, as YAML does.
    document = json.loads(json.dumps(written(run.plan.experiment)))
    text: str = yaml.safe_dump(document, sort_keys=False)
    return text if len(text) < _LONGEST else "# too long for this page: spec in manifest.json\n"


def _facts(run: Run) -> list[tuple[str, str]]:
    """Digests, the seed, and the commit if the manifest knows it."""
    told = [
        ("Plan (SHA-256)", identity.digest(run.plan)),
        ("Seed", str(run.plan.experiment.seed)),
    ]
    told += [
        (f"Tensors of {table.model} (SHA-256)", table.weights_sha256) for table in run.plan.tables
    ]
    checkout = _manifest(run.path).get("checkout")
    if isinstance(checkout, dict) and "commit" in checkout:
        changed = " with local changes" if checkout.get("dirty") else ""
        told.append(("Analysed by commit", f"{checkout['commit']}{changed}"))
    return list(dict.fromkeys(told))


def _versions(run: Run) -> list[tuple[str, str, str]]:
    """What each host was and ran, as its stages recorded it."""
    found: dict[tuple[str, str, str], None] = {}
    for row in run.stages[["host", "facts", "versions"]].to_dict("records"):
        known = row["versions"] or {}
        versions = ", ".join(f"{name} {known[name]}" for name in _SHOWN if known.get(name))
        cpu = str((row["facts"] or {}).get("cpu") or "unknown processor")
        found[str(row["host"]), cpu, versions] = None
    return list(found)


def _manifest(folder: Path) -> dict[str, Any]:
    """The run's manifest; nothing where there is none, or none that can be read."""
    try:
        document = read_manifest(folder)
    except (OSError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}

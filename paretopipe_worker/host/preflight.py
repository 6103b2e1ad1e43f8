"""Check that torch works on a host, by having it compute a little in a process of its own.

The kernel ends a build for another processor at its first illegal instruction, which may come when
torch is imported or only when it computes. The check takes seconds on a small computer, so where it
passed it is not repeated until the host's processor, Python or torch changes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from paretopipe_worker.host.daemons import read_json, write_json
from paretopipe_worker.host.machine import cpu_field, free_bytes

PATIENCE_S = 300.0
"""Seconds after which torch counts as hanging; reading it from a slow card takes a minute."""

_STEPS = ("the import of torch", "a convolution", "a matrix product")
_PROGRAM = """\
import json, sys
print(0, flush=True)
import torch
print(1, flush=True)
image, kernel = torch.ones(1, 8, 32, 32), torch.ones(16, 8, 3, 3)
assert torch.nn.functional.conv2d(image, kernel).eq(8 * 3 * 3).all(), "its result is wrong"
print(2, flush=True)
assert (torch.ones(64, 128) @ torch.ones(128, 64)).eq(128).all(), "its result is wrong"
print(json.dumps(torch.__version__), flush=True)
"""
"""Prints the number of each step before it begins, and torch's version after the last."""

_ANOTHER_PROCESSOR = (
    "torch is built for another processor than {processor}: {step} was ended by SIGILL, an illegal "
    "instruction. Install a build that runs here, and name its Python as worker_python: the "
    "distribution's own package (python3-torch on Debian and Raspberry Pi OS), which is for every "
    "processor of its architecture, or an older release, where newer ones need instructions that "
    "this processor lacks. All hosts must have the same version."
)


class PreflightError(ValueError):
    """Torch does not work on this host; the text says how and where it ended, and what to do."""


@dataclass(frozen=True)
class Tried:
    """A check that passed: processor, Python, build of torch, and torch's version."""

    processor: str
    python: str
    build: str
    torch: str


def torch_works(home: Path, told: Tried | None = None, *, keep: bool = True) -> Tried:
    """Have torch compute, unless the same build already passed on this host.

    Parameters
    ----------
    home
        Folder whose ``preflight.json`` keeps the last check that passed.
    told
        A check that passed since, which was not kept there.
    keep
        Whether the check is kept there if it passes.

    Raises
    ------
    PreflightError
        When torch cannot be imported, does not compute, or computes wrongly.
    """
    kept, build = home / "preflight.json", _build()
    now = (processor(), sys.executable, build)
    for before in filter(None, (_read(kept), told)):
        if (before.processor, before.python, before.build) == now:
            tried = before
            break
    else:
        tried = Tried(*now, torch=_run())
    if keep and tried != _read(kept):
        write_json(kept, asdict(tried))
    return tried


def processor() -> str:
    """Name and architecture of the processor."""
    names = (cpu_field("model name"), cpu_field("Model"), cpu_field("CPU part"))
    return ", ".join((next(filter(None, names), "an unnamed one"), platform.machine()))


def _build() -> str:
    """Identify an installation of torch by its path and the time at which it was written."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        raise PreflightError(f"{sys.executable} has no torch")
    return f"{spec.origin} {Path(spec.origin).stat().st_mtime_ns}"


def _read(path: Path) -> Tried | None:
    """Read the last check that passed; None where there is none, or the file is damaged."""
    try:
        found = read_json(path) or {}
    except ValueError:
        return None
    return _tried(found)


def _tried(found: Any) -> Tried | None:
    """A check that passed as a dictionary has it; None where that is something else."""
    fields = set(Tried.__dataclass_fields__)
    return Tried(**found) if isinstance(found, dict) and set(found) == fields else None


def _run() -> str:
    """Run the program and return torch's version; raise a `PreflightError` if it fails."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PATIENCE_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise PreflightError(
            f"torch hangs: it did not finish within {PATIENCE_S:g} s on {processor()}"
        ) from error
    if done.returncode == 0:
        return str(json.loads(done.stdout.splitlines()[-1]))
    raise PreflightError(_reason(done))


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    """How the process ended, and what to do about it."""
    begun = [line for line in done.stdout.splitlines() if line.isdecimal()]
    step = _STEPS[int(begun[-1])] if begun else "the start of Python"
    code = done.returncode
    number = -code if code < 0 else code - 128  # the latter where a shell ran it
    if number == signal.SIGILL:
        return _ANOTHER_PROCESSOR.format(processor=processor(), step=step)
    if number in set(signal.Signals):
        why = " (memory may have run out)" if number == signal.SIGKILL else ""
        return (
            f"torch does not work: {step} was ended by {signal.Signals(number).name}{why} on "
            f"{processor()}"
        )
    said = [line for line in done.stderr.splitlines() if line.strip()] or [f"status {code}"]
    return f"torch does not work: {step} failed: {said[-1].strip()}"


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``preflight`` to the worker's command line."""
    parser = commands.add_parser(
        "preflight", help="check that torch works on this host; its free memory"
    )
    parser.add_argument("--home", type=Path, required=True, metavar="DIR", help="of the worker")
    parser.add_argument(
        "--told", type=json.loads, metavar="JSON", help="a check that passed and was not kept"
    )
    parser.set_defaults(run=_preflight)


def _preflight(options: argparse.Namespace) -> int:
    """``preflight``: print the check that passed, and the memory that is free now, as JSON."""
    found: dict[str, Any] = asdict(torch_works(options.home, _tried(options.told)))
    print(json.dumps(found | {"free_bytes": free_bytes()}))
    return 0

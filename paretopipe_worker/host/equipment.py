"""Facts that decide whether a host is fit for a sweep. Reading them changes nothing on it."""

from __future__ import annotations

import json
import os
import platform
import pwd
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

from paretopipe_worker.host.machine import cpu_field, free_bytes
from paretopipe_worker.host.preflight import PATIENCE_S
from paretopipe_worker.host.sensors import Sensors, content, line

_PACKAGES = ("numpy", "pydantic", "safetensors", "torch", "yaml")
"""What the worker imports beside Python's own modules."""

_TRY = """\
import json, sys
from importlib.util import find_spec
from pathlib import Path
found = {"python": list(sys.version_info[:3]), "missing": [], "torch": None, "problem": None}
found["missing"] = [name for name in sys.argv[2:] if find_spec(name) is None]
if sys.version_info >= (3, 11) and "torch" not in found["missing"]:
    from dataclasses import asdict
    from paretopipe_worker.host.preflight import PreflightError, torch_works
    try:
        found["torch"] = asdict(torch_works(Path(sys.argv[1]), keep=False))
    except PreflightError as error:
        found["problem"] = str(error)
print(json.dumps(found))
"""
"""Run by the worker's own Python."""

_NVIDIA = ("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
_TOOL_S = 20.0


def facts(home: Path, root: Path = Path("/")) -> dict[str, Any]:
    """What the host is, and what it has left.

    Parameters
    ----------
    home
        Folder of the worker, which need not exist.
    root
        Where ``proc``, ``sys``, ``etc`` and ``usr`` are.
    """
    return {
        "user": pwd.getpwuid(os.geteuid()).pw_name,
        "python": platform.python_version(),
        "os": _release(root),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "bits": 8 * struct.calcsize("P"),
        "page_bytes": os.sysconf("SC_PAGE_SIZE"),
        "processor": cpu_field("model name", "Model", root=root),
        "board": line(root / "proc/device-tree/model"),
        "free_memory_bytes": free_bytes(root),
        "swaps": _swaps(root),
        "disk": _disk(home),
        "governors": _governors(root),
        "throttling": Sensors(root).throttling(),
        "gpus": _gpus(),
        "tools": [name for name in ("ip", "tc") if _found(name)],
        "addresses": _addresses(),
    }


def worker(python: str, home: Path, package: str) -> dict[str, Any] | None:
    """Whether the worker's Python is there, has the packages, and torch computes in it.

    Parameters
    ----------
    python
        The Python; if empty, that of the virtual environment in `home`.
    package
        Where the worker package is, as an entry of PYTHONPATH. The Python inherits descriptor N of
        ``/proc/self/fd/N``.

    Returns
    -------
    None where no Python was named and none was made yet.
    """
    path = python or str(home / "venv/bin/python")
    if not python and not Path(path).exists():
        return None
    name = f"worker_python {path}" if python else path
    found: dict[str, Any] = {"name": name}
    number = package.removeprefix("/proc/self/fd/")
    try:
        done = subprocess.run(
            [path, "-c", _TRY, str(home), *_PACKAGES],
            env={**os.environ, "PYTHONPATH": package, "PYTHONDONTWRITEBYTECODE": "1"},
            pass_fds=[int(number)] if number.isdecimal() else [],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=2 * PATIENCE_S,
        )
        return {**found, **json.loads(done.stdout)}
    except OSError as error:
        return found | {"problem": f"{name}: {error.strerror}"}
    except subprocess.TimeoutExpired as error:
        return found | {"problem": f"{name} does not end within {error.timeout:g} s"}
    except ValueError:
        said = [text for text in done.stderr.splitlines() if text.strip()]
        why = said[-1] if said else f"it ended with {done.returncode}"
        return found | {"problem": f"{name} does not run: {why}"}


def _release(root: Path) -> str | None:
    """Name of the operating system."""
    for entry in (content(root / "etc/os-release") or "").splitlines():
        name, _, value = entry.partition("=")
        if name == "PRETTY_NAME":
            return value.strip("\"'")
    return None


def _swaps(root: Path) -> list[dict[str, Any]]:
    """Each place to which memory is swapped: `name`, `bytes` and `used_bytes`."""
    lines = (content(root / "proc/swaps") or "").splitlines()[1:]
    entries = [entry.split() for entry in lines]
    return [
        {"name": words[0], "bytes": int(words[2]) * 1024, "used_bytes": int(words[3]) * 1024}
        for words in entries
        if len(words) > 3
    ]


def _disk(home: Path) -> dict[str, Any]:
    """The file system that the worker's folder is or would be on, and what it holds already."""
    place = home
    while not _seen(place):
        place = place.parent
    sizes = [path.stat().st_size for path in home.glob("programs/*") if path.is_file()]
    return {
        "path": str(home),
        "free_bytes": shutil.disk_usage(place).free,
        "held_bytes": sum(sizes),
        "writable": os.access(place, os.W_OK | os.X_OK),
    }


def _seen(path: Path) -> bool:
    """Whether a path exists and may be looked at."""
    try:
        return path.exists()
    except OSError:
        return False


def _governors(root: Path) -> dict[str, list[str] | None]:
    """By policy the governors that may be set; None where the kernel does not list them."""
    found: dict[str, list[str] | None] = {}
    for file in sorted(root.glob("sys/devices/system/cpu/cpufreq/policy*/scaling_governor")):
        listed = content(file.parent / "scaling_available_governors")
        found[file.parent.name] = None if listed is None else listed.split()
    return found


def _gpus() -> list[str]:
    """Name and driver of each NVIDIA GPU; empty without one, or without its driver."""
    try:
        done = subprocess.run(
            _NVIDIA, capture_output=True, text=True, errors="replace", timeout=_TOOL_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return [name.strip() for name in done.stdout.splitlines() if name.strip()]


def _found(tool: str) -> str | None:
    """Path of a command, also where only root's search path has it."""
    return shutil.which(tool, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")


def _addresses() -> list[str]:
    """Every IP address of this host's interfaces; empty where ``ip`` is not installed."""
    try:
        done = subprocess.run(
            [_found("ip") or "ip", "-j", "address", "show"],
            capture_output=True,
            text=True,
            check=True,
            timeout=_TOOL_S,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    interfaces = json.loads(done.stdout)
    return [entry["local"] for each in interfaces for entry in each.get("addr_info", [])]

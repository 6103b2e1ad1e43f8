"""Print what decides which wheels this host gets, as JSON: ``python - ENVIRONMENT < describe.py``.

ENVIRONMENT is the worker's virtual environment, which need not exist. The fields are described in
``paretopipe_worker/wheels/needs.py``. It runs before anything is installed on the host, so it needs
nothing but Python itself.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import struct
import subprocess
import sys
from pathlib import Path


def gpu() -> tuple[str | None, str | None]:
    """Driver and compute capability of the first GPU, by ``nvidia-smi``; None if there is none."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return None, None
    # Drivers before 510 do not know the second field.
    for fields in ("driver_version,compute_cap", "driver_version"):
        query = [command, f"--query-gpu={fields}", "--format=csv,noheader"]
        try:
            done = subprocess.run(query, capture_output=True, text=True, timeout=60, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None, None
        if done.returncode == 0 and done.stdout.strip():
            told = [word.strip() for word in done.stdout.splitlines()[0].split(",")]
            return told[0], told[1] if len(told) > 1 and told[1][:1].isdigit() else None
    return None, None


def installed(environment: Path) -> dict[str, str]:
    """Versions of the packages of a virtual environment of this Python, by name."""
    site = environment / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    found = importlib.metadata.distributions(path=[str(site / "site-packages")])
    named = {each.metadata["Name"]: each.version for each in found}
    return {name: version for name, version in named.items() if name and version}


def described(environment: Path) -> dict[str, object]:
    """Everything, by field."""
    libc, version = platform.libc_ver()
    driver, capability = gpu()
    return {
        "machine": platform.machine(),
        "bits": struct.calcsize("P") * 8,
        "python": f"{sys.version_info[0]}.{sys.version_info[1]}",
        "libc": libc,
        "libc_version": ".".join(version.split(".")[:2]) if libc == "glibc" else "",
        "page_bytes": os.sysconf("SC_PAGE_SIZE"),
        "driver": driver,
        "capability": capability,
        "installed": installed(environment),
    }


if __name__ == "__main__":
    print(json.dumps(described(Path(sys.argv[1]))))

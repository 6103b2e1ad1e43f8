"""Build the worker package as a wheel: ``python build.py CHECKOUT WHEELS``.

The wheel goes to ``WHEELS/DIGEST/`` and its path and digest are printed as JSON. It is made from a
copy of the sources, since setuptools would leave its files in the checkout and, from there, put
modules that have since been removed into the next wheel.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCES = ("pyproject.toml", "README.md", "LICENSE", "paretopipe_worker")


def build(checkout: Path, wheels: Path) -> dict[str, str | bool]:
    """Build the wheel, and keep it under the digest of its content."""
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch, "source")
        source.mkdir()
        for name in SOURCES:
            path = checkout / name
            if path.is_dir():
                shutil.copytree(path, source / name)
            else:
                shutil.copy(path, source / name)
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index"]
        command += ["--no-build-isolation", "--wheel-dir", scratch, str(source)]
        # A fixed time in the archive: the same sources give the same digest.
        subprocess.run(command, check=True, env={**os.environ, "SOURCE_DATE_EPOCH": "315532800"})
        (wheel,) = Path(scratch).glob("*.whl")
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()[:12]
        kept = wheels / digest / wheel.name
        changed = not kept.exists()
        if changed:
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(wheel, kept)
    return {"wheel": str(kept), "digest": digest, "changed": changed}


if __name__ == "__main__":
    print(json.dumps(build(Path(sys.argv[1]), Path(sys.argv[2]))))

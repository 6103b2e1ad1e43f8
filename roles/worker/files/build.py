"""Build the worker package as a wheel: ``python build.py CHECKOUT WHEELS``.

The wheel goes to ``WHEELS/DIGEST/``, named by the digest of its sources, and is built only once.
Its path and the digest are printed as JSON. It is made from a copy of the sources: in the checkout
setuptools would leave files of its own, from which modules that have since been deleted would get
into the next wheel.
"""

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

BUILD = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
"""The call that pip makes to setuptools (PEP 517), without the seconds that pip itself takes."""

SOURCES = ("pyproject.toml", "README.md", "LICENSE", "paretopipe_worker")


def build(checkout: Path, wheels: Path) -> dict[str, str | bool]:
    """Build the wheel, unless the same sources were built before."""
    digest = sources_digest(checkout)
    kept = wheels / digest
    if found := list(kept.glob("*.whl")):
        return {"wheel": str(found[0]), "digest": digest, "changed": False}
    wheels.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=wheels) as scratch:
        source, made = Path(scratch, "source"), Path(scratch, "made")
        source.mkdir()
        for name in SOURCES:
            path = checkout / name
            if path.is_dir():
                shutil.copytree(path, source / name)
            else:
                shutil.copy(path, source / name)
        made.mkdir()
        command = [sys.executable, "-c", BUILD, str(made.resolve())]
        subprocess.run(command, cwd=source, stdout=subprocess.DEVNULL, check=True)
        made.rename(kept)
    (wheel,) = kept.glob("*.whl")
    return {"wheel": str(wheel), "digest": digest, "changed": True}


def sources_digest(checkout: Path) -> str:
    """Digest of the paths and contents of all sources."""
    files = [checkout / name for name in SOURCES if (checkout / name).is_file()]
    for name in SOURCES:
        found = (checkout / name).rglob("*")
        files += sorted(path for path in found if path.suffix in (".py", ".typed"))
    total = hashlib.sha256()
    for path in files:
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        total.update(f"{path.relative_to(checkout)} {content}\n".encode())
    return total.hexdigest()[:12]


if __name__ == "__main__":
    print(json.dumps(build(Path(sys.argv[1]), Path(sys.argv[2]))))

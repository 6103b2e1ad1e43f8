"""Build the worker package: ``python build.py CHECKOUT WHEELS``.

The wheel goes to ``WHEELS/DIGEST/``, named by the digest of its sources, and is built only once.
Beside it lies, in base64, the archive of what root runs: what role worker sends to a host as text
never is in a file of the user who logs in there. The paths of both and the digest are printed as
JSON. The wheel is made from a copy of the sources: in the checkout setuptools would leave files of
its own, from which modules that have since been deleted would get into the next wheel.
"""

import base64
import hashlib
import io
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

BUILD = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
"""The call that pip makes to setuptools (PEP 517), without the seconds that pip itself takes."""

SOURCES = ("pyproject.toml", "README.md", "LICENSE", "paretopipe_worker")

OF_ROOT = ("__init__.py", "root.py", "bounded.py", "usertext.py", "link", "host", "shaping")
"""What of the package root runs: ``root.py`` and what it imports."""

MAIN = "import sys\n\nfrom paretopipe_worker.root import main\n\nsys.exit(main())\n"


def build(checkout: Path, wheels: Path) -> dict[str, str | bool]:
    """Build the wheel, unless the same sources were built before."""
    digest = sources_digest(checkout)
    kept = wheels / digest
    if found := list(kept.glob("*.whl")):
        return {**_paths(found[0]), "digest": digest, "changed": False}
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
        (wheel,) = made.glob("*.whl")
        Path(_paths(wheel)["archive"]).write_bytes(base64.b64encode(archive(checkout)))
        made.rename(kept)
    return {**_paths(kept / wheel.name), "digest": digest, "changed": True}


def _paths(wheel: Path) -> dict[str, str]:
    """Where a wheel is, and the archive that is built with it."""
    return {"wheel": str(wheel), "archive": str(wheel.with_name("root.pyz.b64"))}


def archive(checkout: Path) -> bytes:
    """Zip what root runs; the same sources give the same bytes."""
    package = checkout / "paretopipe_worker"
    files = [package / name for name in OF_ROOT if name.endswith(".py")]
    files += [file for name in OF_ROOT for file in sorted((package / name).glob("*.py"))]
    content = {str(file.relative_to(checkout)): file.read_text(encoding="utf-8") for file in files}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as made:
        for name, text in {"__main__.py": MAIN, **content}.items():
            # Zip files cannot tell a time before 1980.
            member = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            made.writestr(member, text, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


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

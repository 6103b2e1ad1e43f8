"""Identity of the worker's code on this machine."""

from __future__ import annotations

import hashlib
from pathlib import Path


def digest(package: Path = Path(__file__).parents[1]) -> str:
    """Digest (SHA-256) of the paths and contents of the worker package's modules."""
    total = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        total.update(f"{path.relative_to(package)} {content}\n".encode())
    return total.hexdigest()

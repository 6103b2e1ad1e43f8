"""Which code of the worker runs here."""

from __future__ import annotations

import hashlib
from pathlib import Path


def digest(package: Path = Path(__file__).parents[1]) -> str:
    """Digest (SHA-256) of the worker package: paths and contents of its modules."""
    total = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        total.update(f"{path.relative_to(package)} {content}\n".encode())
    return total.hexdigest()

"""Folders of tables of links, as the playbook leaves them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from paretopipe_worker.records.pairs import Pair, Table


def stored(folder: Path, table: Table, pairs: Iterable[Pair]) -> Path:
    """Write a table and what was measured of it into `folder`, and return that."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "links.json").write_text(json.dumps(asdict(table)))
    for pair in pairs:
        file = folder / "pairs" / pair.source / f"{pair.sink}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(asdict(pair)))
    return folder

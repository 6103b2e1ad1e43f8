"""A run sealed in one file, which can be read without this project.

The file is a ZIP of a BagIt bag (RFC 8493): a folder ``data`` with what was measured, and lists of
the checksums of everything, so that a change does not go unnoticed. ``sha256sum -c
manifest-sha256.txt`` checks them on any computer. What is in ``data``:

- ``run``: the run's folder: plan, records, tables, figures and manifest;
- ``experiment.yml``: a spec that asks for the same;
- ``inventory.yml``: the hosts, with those of their variables that cannot be secret.
"""

from __future__ import annotations

import json
import logging
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import bagit  # type: ignore[import-untyped]
import yaml

_MOST_BYTES = 100 << 30
"""The largest archive that is unpacked."""

_LEFT_OUT = ("secret", "*.partial")
"""Files of a run's folder that are nobody's business, or are not complete."""


class ArchiveError(ValueError):
    """A run cannot be sealed, or an archive is damaged or was changed: which file, and what."""


def seal(run: Path, file: Path) -> Path:
    """Write a run into one file.

    Parameters
    ----------
    run
        The run's folder, ``results/RUN``, with its manifest.
    file
        The archive, which ends in ``.zip`` and must not be there yet.

    Returns
    -------
    The archive.

    Raises
    ------
    ArchiveError
        When the run has no manifest, or the file is there already.
    """
    if file.exists():
        raise ArchiveError(f"{file}: is there already; a sealed archive is never written again")
    manifest = _manifest(run)
    with tempfile.TemporaryDirectory(prefix="seal-", dir=file.resolve().parent) as folder:
        bag = Path(folder) / run.name
        shutil.copytree(run, bag / "run", ignore=shutil.ignore_patterns(*_LEFT_OUT))
        (bag / "experiment.yml").write_text(_yaml(manifest["spec"]), encoding="utf-8")
        (bag / "inventory.yml").write_text(_yaml(_inventory(manifest)), encoding="utf-8")
        with _quiet():
            made = bagit.make_bag(str(bag), {"External-Identifier": run.name}, checksums=["sha256"])
            # With it, a missing file would be told as a number of bytes and not by its name.
            del made.info["Payload-Oxum"]
            made.save()
        packed = shutil.make_archive(str(Path(folder) / "archive"), "zip", folder, run.name)
        Path(packed).replace(file)
    return file


@contextmanager
def opened(file: Path) -> Iterator[Path]:
    """Unpack an archive whose checksums are right; it is removed at the end of the block.

    Yields
    ------
    Its folder ``data``.

    Raises
    ------
    ArchiveError
        When it cannot be read, is no archive of a run, or a file in it has other contents than when
        it was sealed.
    """
    with tempfile.TemporaryDirectory(prefix="reproduce-") as folder:
        try:
            with zipfile.ZipFile(file) as archive:
                _check_members(archive, file)
                archive.extractall(folder)
        except (OSError, zipfile.BadZipFile) as error:
            raise ArchiveError(f"{file}: cannot be read: {error}") from error
        found = list(Path(folder).iterdir())
        if len(found) != 1 or not (found[0] / "data" / "run" / "plan.json").is_file():
            raise ArchiveError(f"{file}: is no archive of a run; analysis.reproduce writes them")
        try:
            with _quiet():
                bagit.Bag(str(found[0])).validate(processes=1)
        except bagit.BagError as error:
            raise ArchiveError(f"{file}: was changed after it was sealed: {error}") from error
        yield found[0] / "data"


def _check_members(archive: zipfile.ZipFile, file: Path) -> None:
    """Refuse what no archive of a run holds, before anything is written."""
    members = archive.infolist()
    if (size := sum(member.file_size for member in members)) > _MOST_BYTES:
        raise ArchiveError(
            f"{file}: would take {size / 1e9:.0f} GB; allowed: {_MOST_BYTES / 1e9:.0f}"
        )
    for member in members:
        kind = stat.S_IFMT(member.external_attr >> 16)
        parts = Path(member.filename).parts
        if ".." in parts or Path(member.filename).is_absolute() or kind == stat.S_IFLNK:
            raise ArchiveError(f"{file}: holds {member.filename!r}, which leads out of its folder")


def _manifest(run: Path) -> dict[str, Any]:
    """A run's manifest."""
    try:
        document: dict[str, Any] = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArchiveError(f"{run}: has no manifest that can be read: {error}") from error
    return document


def _inventory(manifest: dict[str, Any]) -> dict[str, Any]:
    """The inventory of a run, with the variables that its manifest kept."""
    hosts = {host["name"]: host["inventory"] or {} for host in manifest["hosts"]}
    return {"all": {"children": {"stages": {"hosts": hosts}}}}


def _yaml(document: dict[str, Any]) -> str:
    """A document for people, in the order in which it is."""
    text: str = yaml.safe_dump(json.loads(json.dumps(document)), sort_keys=False)
    return f"---\n{text}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what the library logs about each file."""
    logger = logging.getLogger("bagit")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)

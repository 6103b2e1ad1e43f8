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
import lzma
import shutil
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import bagit  # type: ignore[import-untyped]
import yaml

from analysis.provenance import read_manifest
from paretopipe_worker.plan import spec
from paretopipe_worker.usertext import shown

_MOST_BYTES = 100 << 30
_MOST_MEMBERS = 200_000
"""The largest archive that is unpacked, in bytes and in files."""

_BROKEN = (
    *(OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zipfile.LargeZipFile),
    *(zlib.error, lzma.LZMAError, struct.error, OverflowError, LookupError),
)
"""What ``zipfile`` and ``bagit`` raise about a file that is damaged, encrypted, or packed by other
means."""

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
                _check_members(archive, file, Path(folder))
                archive.extractall(folder)
        except _BROKEN as error:
            raise ArchiveError(f"{file}: cannot be read: {error}") from error
        found = list(Path(folder).iterdir())
        if len(found) != 1 or not (found[0] / "data" / "run" / "plan.json").is_file():
            raise ArchiveError(f"{file}: is no archive of a run; analysis.reproduce writes them")
        try:
            with _quiet():
                bagit.Bag(str(found[0])).validate(processes=1)
        except (bagit.BagError, *_BROKEN) as error:
            raise ArchiveError(f"{file}: was changed after it was sealed: {error}") from error
        yield found[0] / "data"


def code(data: Path, checkout: Path) -> list[str]:
    """What of an archive's experiment can run code that is not this project's, a line for each.

    Whoever wrote the archive chose it. A factory is any function that can be imported, with
    arguments; a ``.pt2`` file is unpickled when it is loaded; and pip runs what it installs.

    Parameters
    ----------
    data
        What :func:`opened` yields.
    checkout
        This project, whose own factories are not listed.

    Raises
    ------
    ArchiveError
        When the experiment cannot be read.
    """
    try:
        models = spec.read(data / "experiment.yml").models
    except spec.SpecError as error:
        raise ArchiveError(str(error)) from error
    found = []
    for model in models:
        made_by = model.factory or model.name
        package = made_by.partition(":")[0].partition(".")[0]
        if model.exported:
            found.append(f"model {model.name}: the file {model.path}")
        elif ":" in made_by and (model.path or not (checkout / package).is_dir()):
            where = f" in {model.path}" if model.path else ""
            found.append(f"model {model.name}: the function {made_by}{where}")
        found += [f"model {model.name}: pip installs {shown(r)}" for r in model.requirements]
    return found


def _check_members(archive: zipfile.ZipFile, file: Path, folder: Path) -> None:
    """Refuse what no archive of a run holds, before anything is written to `folder`.

    Of a member no more is unpacked than the size that it claims, whatever it holds.
    """
    members = archive.infolist()
    if len(members) > _MOST_MEMBERS:
        raise ArchiveError(f"{file}: holds {len(members)} files; allowed: {_MOST_MEMBERS}")
    size = sum(member.file_size for member in members)
    if size > (most := min(_MOST_BYTES, shutil.disk_usage(folder).free)):
        raise ArchiveError(
            f"{file}: would take {size} bytes; allowed: {most}, of what is free in {folder}"
        )
    seen: set[str] = set()
    for member in members:
        name, kind = member.filename, stat.S_IFMT(member.external_attr >> 16)
        if ".." in Path(name).parts or Path(name).is_absolute() or kind == stat.S_IFLNK:
            raise ArchiveError(f"{file}: holds {name!r}, which leads out of its folder")
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise ArchiveError(f"{file}: holds {name!r}, which is neither a file nor a folder")
        if name in seen:
            raise ArchiveError(f"{file}: holds {name!r} twice")
        seen.add(name)


def _manifest(run: Path) -> dict[str, Any]:
    """A run's manifest."""
    try:
        document: dict[str, Any] = read_manifest(run)
    except (OSError, ValueError, RecursionError) as error:
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

"""The wheelhouse: a folder of wheels for hosts without internet, with a manifest of what is in it.

All wheels lie side by side, so ``pip install --no-index --find-links FOLDER`` works too, without
this project. ``manifest.json`` says which of them each target gets, with checksums.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated
from urllib.error import URLError
from urllib.request import urlopen

from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from paretopipe_worker import bounded
from paretopipe_worker.wheels.needs import Target, WheelsError, number
from paretopipe_worker.wheels.resolving import Wheel

SCHEMA = 1
MANIFEST = "manifest.json"
_MOST_BYTES = 16 * bounded.MEGABYTE
_CHUNK = 1 << 20
_SECONDS = 30


class Kept(BaseModel):
    """A wheel in the folder: its file, what it is, where it came from."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str
    version: str
    file: Annotated[str, Field(pattern=r"^[\w.+-]+\.whl$")]
    size: int
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    url: str


class Shelf(BaseModel):
    """What hosts of one target get with one build of torch, and the versions asked for."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    machine: str
    python: str
    glibc: Annotated[str, Field(pattern=r"^\d+\.\d+$")]
    build: str
    wanted: dict[str, str]
    wheels: list[Kept]

    @property
    def target(self) -> Target:
        """Whom it is for."""
        return Target(self.machine, self.python, self.glibc)


class Manifest(BaseModel):
    """Everything in the folder."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    schema_version: int = SCHEMA
    shelves: list[Shelf] = []


def read(folder: Path) -> Manifest | None:
    """Read the manifest of a wheelhouse; None where there is no wheelhouse.

    Raises
    ------
    WheelsError
        Where the manifest is damaged, or of another version of this project.
    """
    path = folder / MANIFEST
    if not path.exists():
        return None
    try:
        found = Manifest.model_validate_json(bounded.data(path, _MOST_BYTES))
    except (ValidationError, OSError, bounded.UnreadableFile) as error:
        first = str(error).splitlines()[0]
        raise WheelsError(
            f"{path} cannot be read ({first}): collect the wheels anew with "
            "playbooks/wheelhouse.yml, after removing that folder"
        ) from None
    if found.schema_version != SCHEMA:
        raise WheelsError(
            f"{path} has schema {found.schema_version}, and {SCHEMA} is known: collect the wheels "
            "anew with playbooks/wheelhouse.yml, after removing that folder"
        )
    return found


def find(
    manifest: Manifest, target: Target, builds: Sequence[str], wanted: Mapping[str, str]
) -> Shelf | None:
    """Choose the shelf for a host: the best build, then the newest glibc that the host can run.

    A shelf that has not all that is wanted, in the versions that are wanted, is none.
    """
    fits = [
        shelf
        for shelf in manifest.shelves
        if shelf.target.serves(target)
        and shelf.build in builds
        and wanted.items() <= shelf.wanted.items()
    ]
    best = sorted(fits, key=lambda s: (builds.index(s.build), [-n for n in number(s.glibc)]))
    return best[0] if best else None


def collect(
    folder: Path, shelves: Mapping[tuple[Target, str], tuple[dict[str, str], list[Wheel]]]
) -> Iterator[Kept]:
    """Fetch what the folder lacks, and write the manifest; yields every wheel that was fetched.

    What earlier calls collected for other targets stays. Files that no shelf names any longer are
    removed.

    Parameters
    ----------
    folder
        The wheelhouse.
    shelves
        For each target and build the versions that are wanted, and the wheels that these take.
    """
    folder.mkdir(parents=True, exist_ok=True)
    before = read(folder) or Manifest()
    known = {kept.file: kept for shelf in before.shelves for kept in shelf.wheels}
    made = {(shelf.target, shelf.build): shelf for shelf in before.shelves}
    for (target, build), (wanted, wheels) in shelves.items():
        kept = []
        for wheel in wheels:
            there = _kept(folder, wheel, known)
            if there is None:
                there = _fetch(folder, wheel)
                known[there.file] = there
                yield there
            kept.append(there)
        made[target, build] = Shelf(
            machine=target.machine,
            python=target.python,
            glibc=target.glibc,
            build=build,
            wanted=wanted,
            wheels=kept,
        )
    after = Manifest(shelves=[made[key] for key in sorted(made)])
    _write(folder / MANIFEST, after)
    named = {kept.file for shelf in after.shelves for kept in shelf.wheels}
    for path in folder.glob("*.whl"):
        if path.name not in named:
            path.unlink()


def sealed(folder: Path, shelf: Shelf) -> None:
    """Hold that the wheels of a shelf are there and unchanged; raise a `WheelsError` if not."""
    for kept in shelf.wheels:
        path = folder / kept.file
        if not path.is_file():
            raise WheelsError(f"{path} is missing: run playbooks/wheelhouse.yml again")
        if _digest(path) != kept.sha256:
            raise WheelsError(
                f"{path} is not what was collected (its SHA-256 differs from the manifest's): "
                "remove it and run playbooks/wheelhouse.yml again"
            )


def _kept(folder: Path, wheel: Wheel, known: Mapping[str, Kept]) -> Kept | None:
    """The wheel as it lies in the folder already; None where it does not, or is another one."""
    kept, path = known.get(wheel.file), folder / wheel.file
    if kept is None or not path.is_file():
        return None
    same = wheel.sha256 in (None, kept.sha256) and path.stat().st_size == kept.size
    return kept if same and _digest(path) == kept.sha256 else None


def _fetch(folder: Path, wheel: Wheel) -> Kept:
    """Download a wheel; a file that is cut off or is another one is never kept under its name."""
    try:
        parse_wheel_filename(wheel.file)
    except InvalidWheelFilename as error:
        raise WheelsError(f"{wheel.url}: {error}") from None
    part, total, size = folder / f"{wheel.file}.part", hashlib.sha256(), 0
    try:
        with urlopen(wheel.url, timeout=_SECONDS) as answer, part.open("wb") as file:
            while chunk := answer.read(_CHUNK):
                file.write(chunk)
                total.update(chunk)
                size += len(chunk)
    except (URLError, OSError) as error:
        raise WheelsError(f"{wheel.url} cannot be fetched: {error}") from None
    if wheel.sha256 not in (None, total.hexdigest()):
        part.unlink()
        raise WheelsError(f"{wheel.url}: the index names another SHA-256 than the file has")
    part.replace(folder / wheel.file)
    return Kept(
        name=wheel.name,
        version=wheel.version,
        file=wheel.file,
        size=size,
        sha256=total.hexdigest(),
        url=wheel.url,
    )


def _digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, manifest: Manifest) -> None:
    """Write the manifest, whole or not at all."""
    part = path.with_suffix(".part")
    text = json.dumps(manifest.model_dump(mode="json"), indent=1)
    part.write_text(f"{text}\n", encoding="utf-8")
    os.replace(part, path)  # noqa: PTH105

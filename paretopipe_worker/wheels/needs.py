"""What a host is, as far as that decides which wheels it gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version
from pydantic import BaseModel, ConfigDict, Field, ValidationError

CPU = "cpu"
GPU_LIBRARIES = ("nvidia-", "cuda-", "triton")
"""How the names of packages begin that torch needs on a GPU only."""

ANYWHERE = frozenset({"nvidia-ml-py"})
"""Packages of such a name that every host gets: Python alone, and it asks for the driver."""


class WheelsError(ValueError):
    """A host cannot get its packages; the text says which, why, and what to do."""


class Described(BaseModel):
    """What ``roles/worker/files/describe.py`` found out on a host.

    Attributes
    ----------
    machine
        Processor architecture by its kernel, such as ``aarch64``.
    bits
        Of the addresses of its Python: 32-bit systems run on 64-bit kernels.
    python
        Version of its Python, such as ``3.11``.
    libc
        Name and version of its C library; the version is empty where it is not glibc.
    page_bytes
        Size of a page of memory.
    driver, capability
        Version of the NVIDIA driver and compute capability of the first GPU, by ``nvidia-smi``;
        None where there is none.
    installed
        Versions of the packages in the worker's virtual environment, by name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    machine: Annotated[str, Field(pattern=r"^\w{1,20}$")]
    bits: int
    python: Annotated[str, Field(pattern=r"^3\.\d{1,3}$")]
    libc: Annotated[str, Field(pattern=r"^\w{0,20}$")]
    libc_version: Annotated[str, Field(pattern=r"^(\d{1,3}\.\d{1,3})?$")]
    page_bytes: int
    driver: Annotated[str, Field(pattern=r"^\d[\d.]{0,30}$")] | None = None
    capability: Annotated[str, Field(pattern=r"^\d{1,3}\.\d$")] | None = None
    installed: dict[str, str] = {}


@dataclass(frozen=True, order=True)
class Target:
    """Hosts that take the same wheels, but for the build of torch.

    Attributes
    ----------
    machine
        Architecture as platform tags of wheels name it.
    python, glibc
        Versions, such as ``3.11`` and ``2.36``.
    """

    machine: str
    python: str
    glibc: str

    def __str__(self) -> str:
        """As people read it."""
        return f"{self.machine}, glibc {self.glibc}, Python {self.python}"

    def serves(self, other: Target) -> bool:
        """Whether wheels for this also run on `other`: glibc runs what older ones run."""
        same = (self.machine, self.python) == (other.machine, other.python)
        return same and number(self.glibc) <= number(other.glibc)


def target(described: Described) -> Target:
    """Say which wheels a host takes; raise a `WheelsError` where there are none of torch for it."""
    rest = "Name a Python that has the packages as worker_python"
    if described.bits != 64:
        raise WheelsError(
            f"its Python has {described.bits} bits (machine {described.machine}), and torch has "
            f"wheels for 64 only. Install a 64-bit system. {rest}"
        )
    if described.libc != "glibc" or not described.libc_version:
        raise WheelsError(
            f"its C library is {described.libc or 'not known'}, and torch has wheels for glibc "
            f"only. {rest}"
        )
    machine = {"arm64": "aarch64", "amd64": "x86_64"}.get(described.machine, described.machine)
    if machine not in ("aarch64", "x86_64"):
        raise WheelsError(
            f"it is a {machine}, and torch has wheels for aarch64 and x86_64 only. {rest}"
        )
    return Target(machine, described.python, described.libc_version)


def described(told: Any) -> Described:
    """Check what a host said of itself."""
    try:
        return Described.model_validate(told)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise WheelsError(
            f"it describes itself in a way that is not understood: {where}: {first['msg']}"
        ) from None


def number(version: str) -> tuple[int, ...]:
    """A version of numbers as one that can be compared."""
    return tuple(int(part) for part in version.split(".") if part)


def pins(path: Path) -> dict[str, str]:
    """Read a requirements file in which every package has one version: versions by name.

    Raises
    ------
    WheelsError
        Where a line is not of the form ``name==version``.
    """
    found: dict[str, str] = {}
    for at, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        try:
            required = Requirement(text)
            [specifier] = required.specifier
            version = specifier.version if specifier.operator == "==" else ""
        except (InvalidRequirement, ValueError):
            version = ""
        if not version or "*" in version:
            raise WheelsError(f"{path}, line {at}: '{text[:60]}' is not name==version")
        found[canonicalize_name(required.name)] = version
    return found


def lacking(wanted: Mapping[str, str], installed: Mapping[str, str], build: str) -> list[str]:
    """Names of those packages that an environment lacks in the public version that is wanted.

    A build of torch for the CPU counts as lacking where one for a GPU is wanted; not the other way
    round, since it computes on the CPU as well.
    """
    there = {str(canonicalize_name(name)): version for name, version in installed.items()}
    missing = [name for name, version in wanted.items() if not _same(there.get(name), version)]
    on_cpu = (there.get("torch") or "").partition("+")[2] == CPU
    if build != CPU and on_cpu and "torch" not in missing and "torch" in wanted:
        missing.append("torch")
    return missing


def _same(found: str | None, wanted: str) -> bool:
    """Whether two versions have the same public part."""
    try:
        return found is not None and Version(found).public == Version(wanted).public
    except InvalidVersion:
        return False

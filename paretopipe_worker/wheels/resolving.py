"""Ask an index for exactly the wheels that a host needs, for whatever architecture it has.

uv resolves for another platform and Python than it runs on, markers included, and reads the
metadata of packages without the packages. The dry run of pip can do neither before its release
23.3, and Raspberry Pi OS has an older one.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

from packaging.pylock import Package, Pylock, PylockValidationError

from paretopipe_worker.wheels.needs import Target, WheelsError

PYPI = "https://pypi.org/simple"
PYTORCH = "https://download.pytorch.org/whl"

_GLIBCS = (17, 28, *range(31, 41))
"""Minor versions of glibc 2 that uv knows."""

_NOT_FOUND = 1
"""How uv ends where the index answers and has no set of packages that fits."""

_SECONDS = 20

_CREDENTIALS = re.compile(r"//[^/@\s]*@")
"""What stands before the host in a URL, and must be shown to nobody."""


class UnreachableError(WheelsError):
    """No index answered, so nothing is known about what it has."""


@dataclass(frozen=True)
class Sources:
    """Where packages come from.

    Attributes
    ----------
    index
        URL of the index of all packages, by PEP 503.
    torch_index
        URL of the folder of PyTorch's indexes, one for each build; empty if torch comes from
        `index` and `links` as all others do.
    links
        Folders or pages with more wheels; a relative path begins at the working directory.
    """

    index: str = PYPI
    torch_index: str = PYTORCH
    links: tuple[str, ...] = ()

    def __str__(self) -> str:
        """As an error names them."""
        own = f"{self.torch_index} (for torch)" if self.torch_index else ""
        named = ", ".join(filter(None, (own, self.index, *self.links)))
        return _CREDENTIALS.sub("//", named)


@dataclass(frozen=True, order=True)
class Wheel:
    """A wheel at its place; size in bytes and SHA-256 are None where the index does not tell."""

    name: str
    version: str
    url: str
    size: int | None
    sha256: str | None

    @property
    def file(self) -> str:
        """Name of its file."""
        return unquote(urlsplit(self.url).path.rpartition("/")[2])


def resolve(
    wanted: Mapping[str, str], target: Target, build: str, sources: Sources, cache: Path
) -> list[Wheel]:
    """List the wheels of some packages and of all they need, sizes included.

    Parameters
    ----------
    wanted
        Versions by name.
    target
        The hosts they are for.
    build
        Build of torch.
    sources
        Where to look.
    cache
        Folder in which uv keeps what it read.

    Raises
    ------
    WheelsError
        With uv's words, where the sources have no wheels that fit.
    UnreachableError
        Where an index cannot be reached.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        project = folder / "pyproject.toml"
        project.write_text(_project(wanted, build, sources), encoding="utf-8")
        done = _uv(folder, target, sources, cache)
        if done.returncode != 0:
            words = _words(done.stderr)
            if done.returncode == _NOT_FOUND:
                raise WheelsError(f"{sources}: there are no such wheels for {target}: {words}")
            raise UnreachableError(words)
        lock = tomllib.loads((folder / "pylock.toml").read_text(encoding="utf-8"))
    return _wheels(lock)


def _project(wanted: Mapping[str, str], build: str, sources: Sources) -> str:
    """A project that needs these packages, and torch from the index of its build alone."""
    needs = ", ".join(f'"{name}=={version}"' for name, version in wanted.items())
    text = f'[project]\nname = "host"\nversion = "0"\ndependencies = [{needs}]\n'
    if "torch" in wanted and sources.torch_index:
        url = f"{sources.torch_index.rstrip('/')}/{build}"
        text += (
            '[tool.uv.sources]\ntorch = { index = "torch" }\n'
            f'[[tool.uv.index]]\nname = "torch"\nexplicit = true\nurl = "{url}"\n'
        )
    return text


def _uv(
    folder: Path, target: Target, sources: Sources, cache: Path
) -> subprocess.CompletedProcess[str]:
    """Have uv resolve the project in a folder."""
    beside = Path(sysconfig.get_path("scripts"), "uv")
    uv = str(beside) if beside.exists() else shutil.which("uv")
    if uv is None:
        raise WheelsError("uv is not installed on this computer: run make .venv")
    newest = int(target.glibc.partition(".")[2])
    minor = max((each for each in _GLIBCS if each <= newest), default=_GLIBCS[0])
    links = [word for link in sources.links for word in ("--find-links", link)]
    command = [
        *(uv, "pip", "compile", "pyproject.toml", "--quiet", "--output-file", "pylock.toml"),
        *("--python-platform", f"{target.machine}-manylinux_2_{minor}"),
        *("--python-version", target.python, "--no-python-downloads", "--only-binary", ":all:"),
        *(*links, "--cache-dir", str(cache / "uv")),
        *("--system-certs", "--color", "never"),
    ]
    # What a person has set for uv elsewhere must not decide what hosts get.
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("UV_")}
    own = {
        # Not an argument, which other users of this computer could read: it may hold a password.
        "UV_DEFAULT_INDEX": sources.index,
        "UV_HTTP_RETRIES": "1",
        "UV_HTTP_TIMEOUT": str(_SECONDS),
    }
    return subprocess.run(
        command,
        cwd=folder,
        env=inherited | own,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )


def _words(said: str) -> str:
    """What uv said, on one line; of a chain of causes the first two and the last."""
    lines = [line.strip().removeprefix("error: ") for line in said.splitlines()]
    plain = [line for line in lines if line and not line.startswith("cause: ")]
    causes = [line.removeprefix("cause: ") for line in lines if line.startswith("cause: ")]
    text = ": ".join([" ".join(plain), *causes[:1], *causes[1:][-1:]])
    return _CREDENTIALS.sub("//", " ".join(text.split()))[:600]


def _wheels(lock: Mapping[str, object]) -> list[Wheel]:
    """Read the lock that uv wrote."""
    try:
        packages = Pylock.from_dict(lock).packages
    except PylockValidationError as error:
        raise WheelsError(f"uv wrote what is not a lock: {error}") from None
    return sorted(_wheel(package) for package in packages)


def _wheel(package: Package) -> Wheel:
    """The one wheel of a package."""
    if not package.wheels or package.version is None:
        raise WheelsError(f"uv found no wheel of {package.name}")
    wheel = package.wheels[0]
    url = wheel.url or Path(str(wheel.path)).absolute().as_uri()
    size = wheel.size if wheel.size is not None else _size(url)
    sha256 = wheel.hashes.get("sha256")
    return Wheel(str(package.name), str(package.version), url, size, sha256)


def _size(url: str) -> int | None:
    """Size of a file by its server, in bytes; None where it does not tell."""
    try:
        with urlopen(Request(url, method="HEAD"), timeout=_SECONDS) as answer:
            told = answer.headers.get("Content-Length")
    except (URLError, OSError, ValueError):
        return None
    return int(told) if told and told.isdecimal() else None

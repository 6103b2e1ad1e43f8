"""Decide for a whole fleet which wheels each host gets, before anything is downloaded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from packaging.utils import canonicalize_name

from paretopipe_worker.usertext import listed
from paretopipe_worker.wheels import house
from paretopipe_worker.wheels.builds import fitting
from paretopipe_worker.wheels.needs import (
    ANYWHERE,
    CPU,
    GPU_LIBRARIES,
    Described,
    Target,
    WheelsError,
    lacking,
    target,
)
from paretopipe_worker.wheels.resolving import Sources, UnreachableError, Wheel, resolve

MOST = 1_000_000_000
"""Bytes that a host without a GPU may download; torch for the CPU and all the rest take 0.25e9."""

HELP = (
    "Nothing was downloaded. Where this computer has no internet, run on one that has, in a "
    "checkout of this version: ansible-playbook playbooks/wheelhouse.yml -i INVENTORY -e "
    "'{targets}', and copy its .cache/wheelhouse here. Mirrors can be named by worker_index_url, "
    "worker_torch_index_url and worker_find_links. Where a host has the packages already, name its "
    "Python as worker_python."
)


@dataclass(frozen=True)
class Host:
    """One host, as far as its packages go.

    Attributes
    ----------
    name
        In the inventory.
    described
        What it is.
    device
        What its stages run on: ``cpu``, or ``cuda:0``.
    sources
        Where its packages come from if no wheelhouse has them.
    wheelhouse
        A wheelhouse that must have them; None if any may.
    more
        Names of the packages that it needs beside those that every host has.
    """

    name: str
    described: Described
    device: str = CPU
    sources: Sources = field(default_factory=Sources)
    wheelhouse: Path | None = None
    more: tuple[str, ...] = ()


@dataclass(frozen=True)
class Choices:
    """What was chosen for a fleet.

    Attributes
    ----------
    hosts
        Choices by host.
    problems
        Why other hosts cannot get their packages, by host.
    targets
        The hosts for which no index could be asked, as ``wheelhouse_targets`` describes them.
    """

    hosts: Mapping[str, Choice]
    problems: Mapping[str, str]
    targets: Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class Choice:
    """What a host installs: wheels at their places, and what people are told of it."""

    told: str
    wheels: tuple[Wheel, ...] = ()

    @property
    def files(self) -> list[str]:
        """Files on this computer that the host must be sent."""
        here = [wheel for wheel in self.wheels if _lies_here(wheel)]
        return [url2pathname(urlsplit(wheel.url).path) for wheel in here]

    def lines(self, folder: str) -> list[str]:
        """A requirements file for pip: every wheel by its place, sent ones in `folder` on the host.

        No line needs an index, and pip refuses a wheel of another checksum.
        """
        return [f"{wheel.name} @ {_place(wheel, folder)}" for wheel in self.wheels]


Resolve = Callable[[Mapping[str, str], Target, str, Sources], list[Wheel]]


def choose(
    hosts: Iterable[Host],
    wanted: Mapping[str, str],
    others: Mapping[str, str],
    default_house: Path,
    cache: Path,
) -> Choices:
    """Choose the wheels of every host.

    Parameters
    ----------
    hosts
        The fleet.
    wanted
        Versions of the packages that every host must have, by name.
    others
        Versions of those that a host may need beside them.
    default_house
        The wheelhouse that is used where it has what a host needs.
    cache
        Folder of this computer for what was read from indexes.
    """
    resolved = remembered(cache)
    choices, problems, targets = {}, {}, []
    for host in hosts:
        try:
            own = dict(wanted) | {name: others[name] for name in host.more}
            choices[host.name] = _choice(host, own, default_house, resolved)
        except WheelsError as error:
            problems[host.name] = str(error)
            if isinstance(error, UnreachableError) and (asked := _asked(host)) not in targets:
                targets.append(asked)
    return Choices(choices, problems, targets)


def remembered(cache: Path) -> Resolve:
    """Resolve once for all hosts that are alike: an index that does not answer takes seconds."""
    once: dict[object, list[Wheel] | WheelsError] = {}

    def resolved(of: Mapping[str, str], to: Target, build: str, sources: Sources) -> list[Wheel]:
        key = (tuple(of.items()), to, build, sources)
        if key not in once:
            try:
                once[key] = resolve(of, to, build, sources, cache)
            except WheelsError as error:
                once[key] = error
        found = once[key]
        if isinstance(found, WheelsError):
            raise found
        return found

    return resolved


def best(
    host: Host, wanted: Mapping[str, str], builds: Sequence[str], resolved: Resolve
) -> tuple[str, list[Wheel]]:
    """Resolve for the first build of torch that the sources have; its name and the wheels.

    Raises
    ------
    WheelsError
        Where they have none, or where they would give gigabytes to a host without a GPU.
    """
    first: WheelsError | None = None
    for build in builds:
        try:
            wheels = resolved(wanted, target(host.described), build, host.sources)
        except UnreachableError:
            raise
        except WheelsError as error:
            first = first or error
            continue
        if build == CPU:
            _modest(wheels, host.sources)
        elif any(w.name == "torch" and w.version.endswith(f"+{CPU}") for w in wheels):
            raise WheelsError(
                f"its stages run on {host.device}, and {host.sources} have torch for the CPU only"
            )
        return build, wheels
    assert first is not None
    raise first


def told_size(wheels: Sequence[Wheel]) -> str:
    """Size of some wheels together, and which of them are of unknown size."""
    known = sum(wheel.size or 0 for wheel in wheels)
    unknown = [wheel.name for wheel in wheels if wheel.size is None]
    more = f" and {listed(unknown)} of unknown size" if unknown else ""
    return f"{known / 1e6:.1f} MB{more}"


def told_host(described: Described) -> str:
    """What a host is, as people read it."""
    words = [str(target(described))]
    if described.page_bytes != 4096:
        words.append(f"pages of {described.page_bytes // 1024} KiB")
    if described.driver:
        words.append(f"NVIDIA driver {described.driver}")
    return ", ".join(words)


def _choice(
    host: Host, wanted: Mapping[str, str], default_house: Path, resolved: Resolve
) -> Choice:
    """Choose for one host."""
    builds = fitting(host.described, host.device)
    missing = lacking(wanted, host.described.installed, builds[0])
    if not missing:
        return Choice("has its packages")
    told = told_host(host.described)
    folder = host.wheelhouse or default_house
    shelf = _shelf(host, folder, builds, wanted)
    if shelf is not None:
        house.sealed(folder, shelf)
        kept = [
            Wheel(k.name, k.version, (folder / k.file).absolute().as_uri(), k.size, k.sha256)
            for k in shelf.wheels
        ]
        new = _new(kept, host.described, wanted, missing)
        return Choice(f"{told}: {_named(new)} from {folder}, {_ways(new)}", new)
    try:
        _, wheels = best(host, wanted, builds, resolved)
    except UnreachableError as error:
        raise UnreachableError(
            f"lacks {listed(missing)}, and no index can be reached: {error}"
        ) from None
    new = _new(wheels, host.described, wanted, missing)
    return Choice(f"{told}: {_named(new)}, {_ways(new)}", new)


def _shelf(
    host: Host, folder: Path, builds: Sequence[str], wanted: Mapping[str, str]
) -> house.Shelf | None:
    """The shelf of a wheelhouse for a host; an error if it must have one and has not."""
    manifest = house.read(folder)
    goal = target(host.described)
    found = house.find(manifest, goal, builds, wanted) if manifest else None
    if found or host.wheelhouse is None:
        return found
    has = [f"{s.target} ({s.build})" for s in manifest.shelves] if manifest else []
    raise WheelsError(
        f"worker_wheelhouse {folder} has no wheels of the versions that this checkout wants for "
        f"{goal} ({' or '.join(builds)}); it has: {'; '.join(has) or 'nothing'}. "
        "Collect them with playbooks/wheelhouse.yml"
    )


def _modest(wheels: Sequence[Wheel], sources: Sources) -> None:
    """Refuse what a host without a GPU has no use for."""
    idle = [w for w in wheels if w.name.startswith(GPU_LIBRARIES) and w.name not in ANYWHERE]
    size = sum(wheel.size or 0 for wheel in wheels)
    if not idle and size <= MOST:
        return
    largest = sorted(wheels, key=lambda wheel: -(wheel.size or 0))[:3]
    shown = ", ".join(f"{wheel.name} {told_size([wheel])}" for wheel in largest)
    raise WheelsError(
        f"has no GPU by the inventory (device: cpu), and {sources} would give it "
        f"{told_size(wheels)}{f', {len(idle)} libraries for GPUs among them' if idle else ''} "
        f"({shown}). Allowed: at most {MOST // 10**6} MB and nothing for GPUs. Take torch from an "
        "index that has builds for the CPU: worker_torch_index_url, or worker_find_links"
    )


def _new(
    wheels: Sequence[Wheel], described: Described, wanted: Mapping[str, str], missing: Sequence[str]
) -> tuple[Wheel, ...]:
    """Those wheels that a host has not; a package of the right public version stays as it is."""
    there = {str(canonicalize_name(name)): v for name, v in described.installed.items()}
    return tuple(
        wheel
        for wheel in wheels
        if (
            wheel.name in missing
            if wheel.name in wanted
            else there.get(wheel.name) != wheel.version
        )
    )


def _named(wheels: Sequence[Wheel]) -> str:
    """Some wheels in a word: torch, which all depends on, and how many more."""
    torch = next((f"torch {wheel.version}" for wheel in wheels if wheel.name == "torch"), "")
    more = len(wheels) - bool(torch)
    return " and ".join(filter(None, (torch, f"{more} {'more' if torch else 'packages'}")))


def _ways(wheels: Sequence[Wheel]) -> str:
    """How much a host is sent from this computer, and how much it downloads, and from where."""
    sent = [wheel for wheel in wheels if _lies_here(wheel)]
    loaded = [wheel for wheel in wheels if not _lies_here(wheel)]
    servers = listed(sorted({urlsplit(wheel.url).netloc for wheel in loaded}))
    words = [f"{told_size(sent)} to send from this computer"] if sent else []
    words += [f"{told_size(loaded)} to download from {servers}"] if loaded else []
    return ", ".join(words)


def _lies_here(wheel: Wheel) -> bool:
    """Whether a wheel lies on this computer."""
    return urlsplit(wheel.url).scheme == "file"


def _place(wheel: Wheel, folder: str) -> str:
    """URL of a wheel for pip on the host, with its checksum if that is known."""
    url = wheel.url
    if _lies_here(wheel):
        url = Path(folder, wheel.file).as_uri()
    return f"{url}#sha256={wheel.sha256}" if wheel.sha256 else url


def _asked(host: Host) -> dict[str, str]:
    """A host as ``wheelhouse_targets`` describes it."""
    goal = target(host.described)
    told = {"machine": goal.machine, "python": goal.python, "glibc": goal.glibc}
    if host.device != CPU:
        gpu = {"driver": host.described.driver, "capability": host.described.capability}
        told |= {"device": host.device, **{key: value for key, value in gpu.items() if value}}
    return told

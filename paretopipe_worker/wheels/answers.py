"""What playbooks ask about wheels and are answered, checked where it comes in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from paretopipe_worker.usertext import listed
from paretopipe_worker.wheels import choosing, house, needs, resolving
from paretopipe_worker.wheels.builds import fitting
from paretopipe_worker.wheels.choosing import Host

_Name = Annotated[str, Field(max_length=400)]


class Given(BaseModel):
    """What a playbook says of a host; `described` is what the host says of itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: _Name
    described: dict[str, Any]
    device: _Name = needs.CPU
    index_url: _Name = ""
    torch_index_url: _Name = ""
    find_links: list[_Name] = []
    wheelhouse: _Name = ""
    folder: _Name = ""
    packages: list[_Name] = []

    def host(self, checkout: Path, runtimes: Mapping[str, str]) -> Host:
        """The same, checked; relative paths begin in `checkout`."""
        if unknown := [name for name in self.packages if name not in runtimes]:
            raise needs.WheelsError(
                f"{self.name}: packages: no version is known of {listed(unknown)}; allowed are "
                f"those of requirements-runtimes.txt ({listed(list(runtimes))})"
            )
        try:
            described = needs.described(self.described)
        except needs.WheelsError as error:
            raise needs.WheelsError(f"{self.name}: {error}") from None
        return Host(
            name=self.name,
            described=described,
            device=self.device,
            sources=resolving.Sources(
                self.index_url or resolving.PYPI,
                self.torch_index_url,
                tuple(_link(link, checkout) for link in self.find_links),
            ),
            wheelhouse=Path(checkout, self.wheelhouse) if self.wheelhouse else None,
            more=tuple(self.packages),
        )


def read(text: str) -> list[Given]:
    """Read the hosts that a playbook gives, as JSON; raise a `WheelsError` if they cannot be."""
    try:
        return TypeAdapter(list[Given]).validate_json(text)
    except ValidationError as error:
        raise needs.WheelsError(f"the hosts on stdin are not understood: {error}") from None


def chosen_as_json(chosen: choosing.Choices, folders: Mapping[str, str]) -> dict[str, Any]:
    """What a playbook must know of the choices: texts, and for each host what to send and install.

    Parameters
    ----------
    chosen
        The choices.
    folders
        Folder on each host for wheels that it is sent.
    """
    alike: dict[str, list[str]] = {}
    for name, choice in chosen.hosts.items():
        alike.setdefault(choice.told, []).append(name)
    lines = [f"  {', '.join(names)}: {told}" for told, names in alike.items()]
    asked = json.dumps({"wheelhouse_targets": chosen.targets})
    return {
        "text": "\n".join(["Packages of the hosts:", *lines]) if lines else "",
        "hosts": {
            name: {"files": choice.files, "lines": choice.lines(folders[name])}
            for name, choice in chosen.hosts.items()
        },
        "problems": chosen.problems,
        "help": choosing.HELP.format(targets=asked) if chosen.targets else "",
    }


def collected(
    hosts: list[Host],
    wanted: dict[str, str],
    runtimes: Mapping[str, str],
    folder: Path,
    cache: Path,
    check: bool,
) -> dict[str, Any]:
    """Fill a wheelhouse with what hosts need, or only say what it would hold."""
    shelves, names, refused = {}, dict[object, list[str]](), []
    resolved = choosing.remembered(cache)

    for host in hosts:
        own = wanted | {name: runtimes[name] for name in host.more}
        try:
            goal, builds = needs.target(host.described), fitting(host.described, host.device)
            known = next((build for build in builds if (goal, build) in shelves), None)
            if known is None:
                known, wheels = choosing.best(host, own, builds, resolved)
                shelves[goal, known] = (own, wheels)
            names.setdefault((goal, known), []).append(host.name)
        except resolving.UnreachableError as error:
            refused.append(f"{host.name}: no index can be reached: {error}")
        except needs.WheelsError as error:
            refused.append(f"{host.name}: {error}")
    if refused:
        raise needs.WheelsError("\n".join(refused))
    fetched = [] if check else list(house.collect(folder, shelves))
    lines = [
        f"  {goal}, torch for {build} ({', '.join(names[goal, build])}): {len(wheels)} wheels, "
        f"{choosing.told_size(wheels)}"
        for (goal, build), (_, wheels) in shelves.items()
    ]
    did = "would hold" if check else "holds"
    size = sum(kept.size for kept in fetched) / 1e6
    last = [] if check else [f"  {len(fetched)} wheels were fetched, {size:.1f} MB"]
    return {
        "text": "\n".join(
            [f"The wheelhouse {folder} {did}, for each kind of host:", *lines, *last]
        ),
        "changed": bool(fetched),
    }


def _link(link: str, checkout: Path) -> str:
    """A place with wheels: a URL as it is; a path begins in the checkout."""
    return link if "://" in link else str(checkout / link)

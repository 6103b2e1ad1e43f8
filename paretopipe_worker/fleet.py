"""The fleet: the hosts of a run, as the inventory describes them and the plan stores them."""

from __future__ import annotations

import ipaddress
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass


def _address(value: str) -> str:
    """Refuse names: an address says which card the data must use, a name may resolve to another."""
    ipaddress.ip_address(value)
    return value


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class Host:
    """One device.

    Parameters
    ----------
    name
        Its inventory name.
    data_address
        IP address at which other stages reach it: the path that is shaped and measured.
    data_port
        First of the two TCP ports its stage listens on: data, then control. Below those that the
        kernel chooses from, which links shape (`paretopipe_worker.link.tc`).
    threads
        Threads of one stage's computation; null for torch's default.
    device_emulated
        Factor by which computing time is stretched, so that one machine can play two; 1 for none.
        With one thread that is CPU time: what others of the host took is not stretched.
    speed_hint
        How many times slower than the controller the host is thought to be. It is used only to
        predict how long a sweep takes.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")]
    data_address: Annotated[str, AfterValidator(_address)]
    data_port: Annotated[int, Field(ge=1024, le=32766)] = 29400
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    device_emulated: Annotated[float, Field(ge=1, le=1000)] = 1.0
    speed_hint: Annotated[float, Field(gt=0, le=10_000)] = 1.0

    @property
    def control_port(self) -> int:
        """Port of the control channel, on rank 0 only; never shaped."""
        return self.data_port + 1


class FleetError(ValueError):
    """The inventory's description of a host was refused: host, variable, what is allowed."""


_ADAPTER = TypeAdapter(tuple[Host, ...])


def parse(document: str) -> tuple[Host, ...]:
    """Read the hosts from a JSON list, in the order of the inventory's group ``stages``.

    Raises
    ------
    FleetError
        One line for each value that is not allowed.
    """
    try:
        hosts = _ADAPTER.validate_json(document)
    except ValidationError as error:
        faults = []
        for entry in error.errors():
            index, *path = entry["loc"] or ("",)
            name = ".".join(str(part) for part in path)
            faults.append(
                f"inventory: stages[{index}].{name}: {entry['msg']}; got {entry['input']!r}"
            )
        raise FleetError("\n".join(faults)) from error
    if len(hosts) < 2:
        raise FleetError(f"inventory: group 'stages' has {len(hosts)} hosts; at least 2 are needed")
    ends = [(host.data_address, host.data_port) for host in hosts]
    for host, end in zip(hosts, ends, strict=True):
        if ends.count(end) > 1:
            raise FleetError(
                f"inventory: {host.name}: data_address {end[0]} with data_port {end[1]} is used by "
                "another host of 'stages' too; each needs its own"
            )
    return hosts

"""The fleet: the hosts of a run, as the inventory describes them and the plan stores them."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
)
from pydantic.dataclasses import dataclass

from paretopipe_worker.usertext import shown

_ALLOWED = "an IPv4 or IPv6 address of the host's own, such as 192.0.2.11 or 2001:db8::11"


def _address(value: str) -> str:
    """An address as everybody compares it, in its canonical form; what nobody can reach is refused.

    Names are no addresses: an address says which card the data must use, a name may resolve to
    another.
    """
    try:
        address = ipaddress.ip_address(value.strip())
    except ValueError:
        raise ValueError(f"must be {_ALLOWED}") from None
    if address.version == 6 and address.ipv4_mapped:
        raise ValueError(f"must be {_ALLOWED}; an IPv4 address is written {address.ipv4_mapped}")
    if address.version == 6 and (address.is_link_local or address.scope_id):
        raise ValueError(
            f"must be {_ALLOWED}; a link-local address with its zone (%) names no host to the "
            "others: give the interface a private address, such as one of fd00::/8"
        )
    if address.is_unspecified or address.is_multicast or str(address) == "255.255.255.255":
        raise ValueError(f"must be {_ALLOWED}; this one is no single host's")
    return str(address)


def _number(value: object) -> object:
    """A number that came as text, as from ``-e threads=2``; all else as it is."""
    if not isinstance(value, str):
        return value
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


_Text = BeforeValidator(_number)
"""A number that may be written as text: variables of the command line are."""


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
        kernel chooses from, which links shape (`paretopipe_worker.shaping.egress`).
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
    data_port: Annotated[int, Field(ge=1024, le=32766), _Text] = 29400
    threads: Annotated[Annotated[int, Field(ge=1, le=1024)] | None, _Text] = None
    device_emulated: Annotated[float, Field(ge=1, le=1000), _Text] = 1.0
    speed_hint: Annotated[float, Field(gt=0, le=10_000), _Text] = 1.0

    @property
    def control_port(self) -> int:
        """Port of the control channel, on rank 0 only; never shaped."""
        return self.data_port + 1


class FleetError(ValueError):
    """The inventory's description of a host was refused: host, variable, what is allowed."""


_ADAPTER = TypeAdapter(tuple[Host, ...])


def parse(document: str) -> tuple[Host, ...]:
    """Read the hosts from a JSON list, in the order of the inventory's group ``stages``.

    Numbers may be written as text. Addresses become what all comparisons hold them against.

    Raises
    ------
    FleetError
        One line for each value that is not allowed.
    """
    try:
        hosts = _ADAPTER.validate_json(document)
    except ValidationError as error:
        written = json.loads(document)
        faults = [_fault(written, entry) for entry in error.errors()]
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


def apart(hosts: Sequence[Host]) -> str | None:
    """Why hosts cannot reach one another by what their data addresses are; None if they may."""
    said = ", ".join(f"{host.name} {host.data_address}" for host in hosts)
    addresses = [ipaddress.ip_address(host.data_address) for host in hosts]
    if len({address.version for address in addresses}) > 1:
        return (
            f"IPv4 and IPv6 data addresses do not reach one another; allowed: all of one ({said})"
        )
    if len({address.is_loopback for address in addresses}) > 1:
        return f"a loopback data address is reached from its own host alone ({said})"
    return None


def _fault(written: list[dict[str, Any]], error: Any) -> str:
    """One of pydantic's errors as host, variable, what is allowed, and what was given."""
    allowed = Host.__dataclass_fields__
    index, *path = error["loc"]
    where = f"inventory: {shown(written[index].get('name', f'stages[{index}]'))}"
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{where}: {path[-1]}: unknown variable; allowed: {', '.join(allowed)}"
    where += f": {next(part for part in path if part in allowed)}"
    if error["type"] in ("missing", "missing_argument"):
        return f"{where}: is required; allowed: {_ALLOWED}"
    message = error["msg"].removeprefix("Value error, ")
    return f"{where}: {message[0].lower()}{message[1:]}; got {shown(error['input'])}"

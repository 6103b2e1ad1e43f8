"""The fleet: the hosts of a run, as the inventory describes them and the plan stores them."""

from __future__ import annotations

import ipaddress
import json
import re
from collections import Counter
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
from pydantic_core import ErrorDetails

from paretopipe_worker.cuts import EAGER
from paretopipe_worker.execution.runtimes import RUNTIMES
from paretopipe_worker.plan import faults
from paretopipe_worker.usertext import shown

MOST_PORT = 32766
"""The highest data port, so that the control port after it lies below those that kernels choose."""

_ALLOWED = "an IPv4 or IPv6 address of the host's own, such as 192.0.2.11 or 2001:db8::11"


def _address(value: str) -> str:
    """An address in its canonical form, which all comparisons use.

    Addresses at which the other hosts cannot reach this one are refused. So are names: an address
    determines the network card the data uses, while a name may resolve to the address of another.
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


def _device(value: str) -> str:
    """Refuse what names no device."""
    if not re.fullmatch(r"cpu|cuda:(0|[1-9][0-9]?)", value):
        raise ValueError("must be cpu, or cuda:N with the number of a GPU, such as cuda:0")
    return value


def _runtime(value: str) -> str:
    """Refuse an unknown runtime."""
    if value not in RUNTIMES:
        raise ValueError(f"must be one of {', '.join(map(repr, RUNTIMES))}")
    return value


def _number(value: object) -> object:
    """Convert a number written as text; leave everything else as it is."""
    if not isinstance(value, str):
        return value
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


_Text = BeforeValidator(_number)
"""Accepts a number written as text, as a variable on the command line is (``-e threads=2``)."""


NAME = re.compile("[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
"""Names that hosts may have, which are those of folders, too."""

_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True, config=_STRICT)
class Busy:
    """A background load: processes that compute without pause, on so many cores.

    Where there is `memory_mb`, one of them writes to so much memory, in MB of a million bytes,
    again and again.
    """

    cores: Annotated[int, Field(ge=1, le=1024), _Text]
    memory_mb: Annotated[Annotated[float, Field(ge=1)] | None, _Text] = None


@dataclass(frozen=True, config=_STRICT)
class Host:
    """One device.

    Parameters
    ----------
    name
        Its inventory name.
    data_address
        IP address at which other stages reach it: the path that is shaped and measured.
    data_port
        First of the two TCP ports its stage listens on: data, then control. It lies below the ports
        that the kernel chooses by itself, which links shape (`paretopipe_worker.shaping.egress`).
        Where several sources share a sink, each has two more (`paretopipe_worker.plan.lanes`).
    threads
        Threads of one stage's computation; null for torch's default.
    device_emulated
        Factor by which computing time is stretched, so that one machine can act as two; 1 for none.
        With one thread this is CPU time: time that other processes took is not stretched.
    speed_hint
        Estimate of how many times slower than the controller the host is, used only to predict how
        long a sweep takes.
    device
        What computes its stages: ``cpu`` or ``cuda:N``, the N-th GPU from 0 on.
    cuda_graphs
        Whether torch starts a stage on a GPU as one CUDA graph, not kernel by kernel.
    memory_mb
        The most memory, in MB of a million bytes, that a stage may take; null for what the host has
        free. Points whose stages need more are not measured.
    runtime
        What executes its stages, one of :data:`~paretopipe_worker.execution.runtimes.RUNTIMES`,
        where an experiment leaves that to the inventory.
    busy
        Background load during sessions that are to be measured on busy hosts; null for none.
    """

    name: Annotated[str, Field(pattern=f"^{NAME.pattern}$")]
    data_address: Annotated[str, AfterValidator(_address)]
    data_port: Annotated[int, Field(ge=1024, le=MOST_PORT), _Text] = 29400
    threads: Annotated[Annotated[int, Field(ge=1, le=1024)] | None, _Text] = None
    device_emulated: Annotated[float, Field(ge=1, le=1000), _Text] = 1.0
    speed_hint: Annotated[float, Field(gt=0, le=10_000), _Text] = 1.0
    memory_mb: Annotated[Annotated[float, Field(gt=0)] | None, _Text] = None
    device: Annotated[str, AfterValidator(_device)] = "cpu"
    cuda_graphs: bool = False
    runtime: Annotated[str, AfterValidator(_runtime)] = EAGER
    busy: Busy | None = None

    @property
    def control_port(self) -> int:
        """Port of the control channel, on rank 0 only; never shaped."""
        return self.data_port + 1


class FleetError(ValueError):
    """The inventory's description of a host was refused: host, variable, what is allowed."""


_ADAPTER = TypeAdapter(tuple[Host, ...])


def parse(document: str, *, least: int = 2) -> tuple[Host, ...]:
    """Read the hosts from a JSON list, in the order of the inventory's group ``stages``.

    Numbers may be written as text. Addresses are put into their canonical form.

    Parameters
    ----------
    least
        Hosts that there must be at least: a pipeline needs two, and one can be prepared.

    Raises
    ------
    FleetError
        One line for each value that is not allowed.
    """
    try:
        hosts = _ADAPTER.validate_json(document)
    except ValidationError as error:
        told = "\n".join(_line(document, fault) for fault in error.errors())
        raise FleetError(told) from error
    if len(hosts) < least:
        raise FleetError(
            f"inventory: group 'stages' has {len(hosts)} hosts; at least {least} are needed"
        )
    ends = [(host.data_address, host.data_port) for host in hosts]
    times = Counter(ends)
    for host, end in zip(hosts, ends, strict=True):
        if times[end] > 1:
            raise FleetError(
                f"inventory: {host.name}: data_address {end[0]} with data_port {end[1]} is used by "
                "another host of 'stages' too; each needs its own"
            )
    return hosts


def apart(hosts: Sequence[Host]) -> str | None:
    """Why the kinds of the hosts' data addresses keep them from reaching one another, or None."""
    said = ", ".join(f"{host.name} {host.data_address}" for host in hosts)
    addresses = [ipaddress.ip_address(host.data_address) for host in hosts]
    if len({address.version for address in addresses}) > 1:
        return (
            f"IPv4 and IPv6 data addresses do not reach one another; allowed: all of one ({said})"
        )
    if len({address.is_loopback for address in addresses}) > 1:
        return f"a loopback data address is reached from its own host alone ({said})"
    return None


def _line(document: str, fault: ErrorDetails) -> str:
    """One fault as host, variable, what is wrong, what is allowed, and what was given."""
    if len(fault["loc"]) < 2:
        where = f"stages[{fault['loc'][0]}]" if fault["loc"] else "the hosts of group 'stages'"
        return f"inventory: {where}: {fault['msg']}; allowed: a list of mappings of variables"
    written: list[dict[str, Any]] = json.loads(document)
    index, *path = fault["loc"]
    variable = faults.key_path(path)
    host = written[int(index)].get("name", f"stages[{index}]")
    owner = Busy if len(path) > 1 else Host
    told = faults.said(fault, list(owner.__dataclass_fields__), "variable")
    if fault["type"] in ("missing", "missing_argument") and owner is Host:
        told += f"; allowed: {_ALLOWED}"
    return f"inventory: {shown(host)}: {variable}: {told}"

"""Whether hosts can meet: addresses, ports, the ways between them, clocks, other sweeps."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

from paretopipe_worker.fitness.answers import Answer, OfUser, Sweep
from paretopipe_worker.fitness.findings import Finding
from paretopipe_worker.plan.fleet import Host

NOTED_S, ALLOWED_S = 2.0, 60.0
"""Seconds by which a clock may differ from the controller's without a note, and at all."""

_ABSENT = "Cannot assign requested address"
_TAKEN = "Address already in use"
_CLEAR_UP = "or end it with `ansible-playbook playbooks/restore.yml`"


def ports(host: Host, answer: Answer, run: str) -> Iterator[Finding]:
    """Whether the data address is the host's own, and its ports are free.

    Parameters
    ----------
    run
        Name of the run that is to be measured. Its own stages do not count: a sweep ends them.
    """
    assert answer.user is not None
    wrong = {port: why for port, why in answer.user.ways.ports.items() if why is not None}
    if _ABSENT in wrong.values():
        has = ", ".join(answer.user.addresses) or "none that it could tell"
        yield Finding(
            host.name,
            "path",
            f"data_address {host.data_address} is none of this host's; it has: {has}",
        )
        return
    for port, why in wrong.items():
        holder = answer.root.holders.get(port) if answer.root else None
        if holder is not None and holder.run is not None and holder.run == run:
            continue
        by = f" by {holder.who}" if holder is not None else ""
        what = f"port {port} is taken{by}" if why == _TAKEN else f"port {port}: {why}"
        yield Finding(
            host.name,
            "ports",
            f"{what}; a stage needs data_port and the port after it: free them, or set another "
            "data_port",
        )


def paths(hosts: Sequence[Host], answers: Mapping[str, Answer]) -> Iterator[Finding]:
    """Ways on which a host was called and did not answer, though it listened."""
    addresses = {host.name: host.data_address for host in hosts}
    listening = {
        (name, port)
        for name, answer in answers.items()
        if answer.user is not None
        for port, why in answer.user.ways.ports.items()
        if why is None
    }
    for name, answer in answers.items():
        told = answer.user
        # A host that has not its own address cannot call from it: that is said already.
        if told is None or _ABSENT in told.ways.ports.values():
            continue
        reasons: dict[tuple[str, str], list[int]] = {}
        for call in told.ways.calls:
            if call.problem is not None and (call.peer, call.port) in listening:
                reasons.setdefault((call.peer, call.problem), []).append(call.port)
        for (peer, why), numbers in reasons.items():
            yield Finding(
                name,
                "path",
                f"does not reach {peer} at {addresses[peer]}, port "
                f"{' and '.join(map(str, numbers))}: {why}. Look for a firewall, for an address "
                "that two hosts have, and for the route from data_address to data_address",
            )


def clock(host: str, told: OfUser, sent_unix_ns: int, received_unix_ns: int) -> Iterator[Finding]:
    """Whether the host's clock agrees with the controller's, as far as a round trip can tell.

    It began to answer after it was asked, and ended before the answer came. So its clock is ahead
    by at most the first difference, and by at least the second.
    """
    most_s = (told.began_unix_ns - sent_unix_ns) / 1e9
    least_s = (told.ended_unix_ns - received_unix_ns) / 1e9
    error_s = least_s if least_s > 0 else min(0.0, most_s)
    if abs(error_s) <= NOTED_S:
        return
    way = "ahead of" if error_s > 0 else "behind"
    yield Finding(
        host,
        "clock",
        f"it is {_duration(abs(error_s))} {way} the controller's. Records have its times, and TLS "
        f"refuses certificates by it; allowed: {ALLOWED_S:g} s. Set it, for example with "
        "`sudo timedatectl set-ntp true`",
        note=abs(error_s) <= ALLOWED_S,
    )


def sweeps(host: str, found: Sequence[Sweep], run: str) -> Iterator[Finding]:
    """Other sweeps that are in progress, and what interrupted ones have left."""
    for sweep in found:
        since = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(sweep.started_unix_s))
        what = f"run {sweep.run} of {sweep.user}, there since {since},"
        if sweep.renewing:
            yield Finding(
                host,
                "sweep",
                f"{what} is being measured by another ansible-playbook: wait for its end",
            )
        elif sweep.run != run and sweep.renewed_s is not None:
            left_s = sweep.lease_s - sweep.renewed_s
            ends = f"ends within {max(left_s, 0):.0f} s"
            yield Finding(
                host,
                "sweep",
                f"{what} was interrupted, and what is left of it {ends}: wait, {_CLEAR_UP}",
            )


def _duration(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"

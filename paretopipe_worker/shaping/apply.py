"""Shape the link of this host and put it back.

`apply` leaves a keeper behind, a process that restores the link when the host's lease lapses. So
no end of the controller, however sudden, leaves a host shaped. If the relay shapes, the keeper runs
it. If the keeper itself is killed, a link shaped by the kernel stays shaped, and a link shaped by
the relay drops the stages' data but not SSH. The next `apply` or `restore` repairs either.

The state folder holds ``before.json`` (what was there before), ``link.json`` (what is in force, for
the stages to record), ``relay.bin`` (see `paretopipe_worker.link.counters`), ``trace.bin`` and
``trace.pipe`` (see `paretopipe_worker.link.replay`), the files of the `keeper`, and the lock under
which the link is changed.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paretopipe_worker.host import sweeping
from paretopipe_worker.host.daemons import locked, write_json
from paretopipe_worker.host.lease import Lease
from paretopipe_worker.link import replay
from paretopipe_worker.link.conditions import Engine, TcpSettings
from paretopipe_worker.shaping import ShapingError, htb, interfaces, keeper, relay, tc, tcp_settings
from paretopipe_worker.shaping.egress import EgressSpec
from paretopipe_worker.shaping.goal import Goal, what_was
from paretopipe_worker.shaping.interfaces import Interface


@dataclass(frozen=True)
class Change:
    """What was done to the link, or would be: the commands, and the states to show as a diff."""

    changed: bool
    commands: list[list[str]]
    before: str
    after: str
    engine: Engine = "none"


def engine_for(egress: EgressSpec, emulate: bool) -> Engine:
    """Choose who shapes on this host.

    Netem comes first where it works, since it is exact to the packet. Without netem, htb alone
    shapes if nothing but rates is asked for: it costs the stages next to nothing, whereas the relay
    takes a share of their cores. The relay, where it is allowed, shapes everything else. It also
    shapes rates so low that htb would fail the certificate; at such a rate there are few packets,
    so that it costs little.

    Parameters
    ----------
    emulate
        Whether the relay may take netem's place.

    Raises
    ------
    ShapingError
        When netem is needed, is missing, and the relay is not allowed; or when htb is missing too.
    """
    if not egress.ways:
        return "none"
    kernel = interfaces.probe_kernel()
    if kernel["netem"]:
        return "netem"
    only_rates = all(condition.only_rate for condition in egress.conditions)
    if only_rates and (not emulate or all(map(htb.certifiable, egress.conditions))):
        if kernel["htb"]:
            return "htb"
        raise ShapingError(
            f"profile {egress.name} needs netem (module sch_netem) or htb (sch_htb); tried on "
            f"kernel {kernel['kernel']}: {kernel['reason']}"
        )
    if emulate:
        return "relay"
    raise ShapingError(
        f"profile {egress.name} asks for more than a rate, which needs netem (module sch_netem); "
        f"tried on kernel {kernel['kernel']}: {kernel['reason']} Debian and Raspberry Pi OS have "
        "it in their standard kernels, Ubuntu in package "
        f"linux-modules-extra-{kernel['kernel']}, "
        "Fedora in kernel-modules-extra"
    )


def apply(
    egress: EgressSpec,
    tcp: TcpSettings | None,
    address: str,
    state_dir: Path,
    lease: Lease,
    *,
    check: bool = False,
) -> Change:
    """Shape the link that owns `address`, set TCP, and leave a keeper that puts both back.

    A second call with the same arguments changes nothing. If nothing is asked for, the link is
    restored. If a command fails, or the kernel afterwards reports something else than was asked
    for, everything is put back before the error is raised.

    Parameters
    ----------
    tcp
        None leaves TCP as it is.
    address
        This host's data address.
    check
        Change nothing, only say what would change.

    Raises
    ------
    ShapingError
        When the lease does not hold, another run has the host, the address or something that the
        engine needs is missing, the interface carries a qdisc that somebody else set up, or a
        command failed.
    """
    if egress.engine == "none" and tcp is None and egress.timetable is None:
        return restore(state_dir, check=check)
    with contextlib.nullcontext() if check else locked(state_dir / "lock"):
        require_free(lease.path)
        interface = interfaces.owning(address)
        _require(egress, interface)
        goal = Goal.of(egress, tcp, lease, state_dir, interface)
        before = goal.now()
        kept = keeper.alive(state_dir)
        in_place = before == goal.state and goal.recorded(state_dir)
        in_place = in_place and (kept is not None or egress.engine != "relay")
        if in_place and kept is not None:
            return Change(False, [], _text(before), _text(before), egress.engine)
        # If only the keeper is missing, the link stays as it is and gets a new keeper.
        done = [] if in_place else _clearing(state_dir) + goal.commands
        if not check:
            _require_lease(lease)
            if in_place:
                keeper.start(state_dir, goal, lambda: _clear(state_dir))
            else:
                _clear(state_dir)
                goal = Goal.of(egress, tcp, lease, state_dir, interfaces.owning(address))
                _carry_out(goal, state_dir)
        return Change(True, done, _text(before), _text(goal.state), egress.engine)


def restore(state_dir: Path, *, check: bool = False) -> Change:
    """Take our shaping off all interfaces, put GSO and TCP back, and end the keeper.

    Restoring an unshaped link changes nothing. Even if the state folder was lost, our root qdisc
    is known by its handle.

    Parameters
    ----------
    check
        Change nothing, only say what would change.

    Raises
    ------
    ShapingError
        When a command failed; what was saved before shaping is kept then, and so is the keeper.
    """
    if not state_dir.exists() and not interfaces.shaped():
        return Change(False, [], "", "")
    with contextlib.nullcontext() if check else locked(state_dir / "lock"):
        saved = what_was(state_dir)
        commands = _clearing(state_dir)
        changed = bool(commands or saved or keeper.alive(state_dir))
        names = {each.name for each in interfaces.shaped()}
        names |= {saved["interface"]} if saved else set()
        before = _states(names, saved)
        if not check:
            _clear(state_dir)
        known = saved["state"] + tcp_settings.lines(saved["tcp"]) if saved else []
        after = known if check and saved else _states(names, saved)
        return Change(changed, commands, _text(before), _text(after))


def _require(egress: EgressSpec, interface: Interface) -> None:
    """Refuse, before anything is changed, what cannot or must not be shaped."""
    if egress.engine == "none":
        return
    where = f"{interface.name}: profile {egress.name}"
    if interface.loopback:
        raise ShapingError(f"{where}: a loopback interface is no link to shape")
    root = interface.root
    if root != tc.ROOT and " " in root:
        raise ShapingError(
            f"{where}: the root qdisc is '{root}', which is neither the kernel's own nor ours. "
            f"If nobody needs it: tc qdisc del dev {interface.name} root"
        )
    if egress.engine == "relay":
        relay.require_tun()


def require_free(lease: Path) -> None:
    """Refuse to take a link from a run of another lease, which is measuring over it.

    Raises
    ------
    ShapingError
        Which run that is, and since when.
    """
    if other := sweeping.held_by(lease):
        raise ShapingError(
            f"this host is in use: {other}. Wait for its end, or end it and clear up with "
            "`ansible-playbook playbooks/restore.yml -i INVENTORY`"
        )


def _require_lease(lease: Lease) -> None:
    """Refuse to shape a link that the keeper would restore at once."""
    if lapse := lease.lapse():
        raise ShapingError(f"{lapse}: touch it before shaping")


def _carry_out(goal: Goal, state_dir: Path) -> None:
    """Lead the link from the kernel's defaults to the goal; on any failure undo all of it."""
    interface = goal.interface
    before = {"interface": interface.name, "gso_max_segs": interface.gso_max_segs}
    write_json(
        state_dir / "before.json", {**before, "state": interface.state, "tcp": goal.original}
    )
    try:
        # First, so that our own sudden end leaves no host shaped, and so that the TAPs exist.
        keeper.start(state_dir, goal, lambda: _clear(state_dir))
        for command in goal.commands:
            tcp_settings.run(command)
        differing = set(goal.now()) ^ set(goal.state)
        if differing:
            raise ShapingError(
                f"{interface.name}: what was asked for and what the kernel has differ in: "
                f"{'; '.join(sorted(differing))}"
            )
        effective = tcp_settings.effective(tcp_settings.read(interface.name))
        write_json(state_dir / "link.json", {**goal.asked, "tcp": effective})
    except (ShapingError, OSError):
        _clear(state_dir)
        raise


def _clearing(state_dir: Path) -> list[list[str]]:
    """Commands that restore TCP and every interface that is shaped by us, also if only in part."""
    saved = what_was(state_dir) or {"interface": "", "gso_max_segs": 0}
    commands = []
    shaped = interfaces.shaped()
    for interface in shaped:
        known = interface.name == saved["interface"]
        gso = saved["gso_max_segs"] if known else interface.gso_default
        commands += [tc.delete_root(interface.name), tc.set_gso(interface.name, gso)]
    half = interfaces.find(saved["interface"]) if saved["interface"] else None
    if half and half not in shaped and half.gso_max_segs == 1 != saved["gso_max_segs"]:
        commands.append(tc.set_gso(half.name, saved["gso_max_segs"]))
    if half and saved["tcp"]:
        commands += tcp_settings.commands(half.name, tcp_settings.read(half.name), saved["tcp"])
    return commands


def _clear(state_dir: Path) -> None:
    """Restore the link, then end the keeper, then delete what was saved."""
    for command in _clearing(state_dir):
        tcp_settings.run(command)
    if left := _clearing(state_dir):
        raise ShapingError(f"the link is not restored; these commands had no effect: {left}")
    keeper.end(state_dir)
    for name in ("link.json", "relay.bin", replay.PIPE, replay.FILE, "before.json"):
        (state_dir / name).unlink(missing_ok=True)


def _states(names: set[str], saved: dict[str, Any] | None) -> list[str]:
    """State of those interfaces of these names that exist, and of TCP if we had set it."""
    found = [each for name in sorted(names) if (each := interfaces.find(name))]
    lines = [line for interface in found for line in interface.state]
    if saved and saved["tcp"] and saved["interface"] in [each.name for each in found]:
        values = tcp_settings.read(saved["interface"])
        lines += tcp_settings.lines({name: values[name] for name in saved["tcp"]})
    return lines


def _text(lines: list[str]) -> str:
    """Join lines to a text that Ansible can show as a diff."""
    return "".join(f"{line}\n" for line in lines)

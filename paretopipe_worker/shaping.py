"""Shape the link of this host and put it back: what ``python -m paretopipe_worker link`` does.

`apply` leaves a keeper behind, a process that restores the link when the host's lease lapses: no
end of the controller, however sudden, leaves a host shaped. The state folder holds ``before.json``
(what was there), ``applied.json`` (what was asked for), ``keeper.json`` (who watches the lease)
and the lock under which the link is changed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from paretopipe_worker import interfaces, tc
from paretopipe_worker.daemons import Process, detach, locked, read_json, write_json
from paretopipe_worker.interfaces import Interface
from paretopipe_worker.lease import Lease
from paretopipe_worker.tc import LinkProfile, Shaping, ShapingError


@dataclass(frozen=True)
class Change:
    """What was done to the link, or would be: the commands, and texts that show as a diff."""

    changed: bool
    commands: list[list[str]]
    before: str
    after: str


def apply(
    shaping: Shaping, address: str, state_dir: Path, lease: Lease, *, check: bool = False
) -> Change:
    """Shape the link that owns `address`, and leave a keeper that restores it.

    Applied again it changes nothing. A profile that shapes nothing restores the link. When a
    command fails, or the kernel then says something else than was asked for, the link is restored
    before the error is raised.

    Parameters
    ----------
    address
        This host's data address.
    check
        Change nothing, only say what would be.

    Raises
    ------
    ShapingError
        When the lease does not hold, the address or netem is missing, the interface carries a
        qdisc that somebody else set up, or a command failed.
    """
    if not shaping.profile.shaped:
        return restore(state_dir, check=check)
    with contextlib.nullcontext() if check else locked(state_dir / "lock"):
        interface = interfaces.owning(address)
        _require(shaping.profile, interface)
        before = interface.state
        wanted = tc.expected_state(shaping, interface.name, interface.mtu)
        asked = {**asdict(shaping), "lease": str(lease.path), "lease_s": lease.seconds}
        asked = json.loads(json.dumps(asked))  # as it is read back
        in_place = before == wanted and read_json(state_dir / "applied.json") == asked
        if in_place and _keeper(state_dir) is not None:
            return Change(False, [], _text(before), _text(before))
        # Where the keeper alone is missing, the link stays as it is and gets a new one.
        commands = tc.apply_commands(shaping, interface.name, interface.mtu)
        done = [] if in_place else _clearing(state_dir) + commands
        if not check:
            _require_lease(lease)
            if in_place:
                _start_keeper(state_dir, lease)
            else:
                _clear(state_dir)
                _carry_out(commands, address, wanted, state_dir, lease)
                write_json(state_dir / "applied.json", asked)
        return Change(True, done, _text(before), _text(wanted))


def restore(state_dir: Path, *, check: bool = False) -> Change:
    """Take our shaping off every interface it is on, put GSO back, and end the keeper.

    Restoring an unshaped link changes nothing. Where the state folder was lost, our root qdisc is
    still known by its handle.

    Raises
    ------
    ShapingError
        When a command failed; what was saved is kept, and so is the keeper.
    """
    if not state_dir.exists() and not interfaces.shaped():
        return Change(False, [], "", "")
    with contextlib.nullcontext() if check else locked(state_dir / "lock"):
        saved = read_json(state_dir / "before.json")
        commands = _clearing(state_dir)
        changed = bool(commands or saved or _keeper(state_dir))
        names = {each.name for each in interfaces.shaped()}
        names |= {saved["interface"]} if saved else set()
        before = _states(names)
        if not check:
            _clear(state_dir)
        after = saved["state"] if check and saved else _states(names)
        return Change(changed, commands, _text(before), _text(after))


def _require(profile: LinkProfile, interface: Interface) -> None:
    """Refuse, before anything is changed, what cannot or must not be shaped."""
    where = f"{interface.name}: profile {profile.name}"
    if interface.loopback:
        raise ShapingError(f"{where}: a loopback interface is no link to shape")
    root = interface.root
    if root != tc.ROOT and " " in root:
        raise ShapingError(
            f"{where}: the root qdisc is '{root}', which is neither the kernel's own nor ours. "
            f"If nobody needs it: tc qdisc del dev {interface.name} root"
        )
    if profile.delay_ms > 0 and not (probe := interfaces.probe_kernel())["netem"]:
        raise ShapingError(
            f"{where}: delay_ms needs netem (module sch_netem); tried on kernel {probe['kernel']}: "
            f"{probe['reason']} Ubuntu has it in package linux-modules-extra-{probe['kernel']}, "
            "Debian and Raspberry Pi OS in their standard kernels"
        )


def _require_lease(lease: Lease) -> None:
    """Refuse to shape what the keeper would restore at once."""
    if lapse := lease.lapse():
        raise ShapingError(f"{lapse}: touch it before shaping")


def _carry_out(
    commands: list[list[str]], address: str, wanted: list[str], state_dir: Path, lease: Lease
) -> None:
    """Shape an interface that is as the kernel made it; on any failure undo all of it."""
    interface = interfaces.owning(address)
    before = {"interface": interface.name, "gso_max_segs": interface.gso_max_segs}
    write_json(state_dir / "before.json", {**before, "state": interface.state})
    try:
        # First, so that our own sudden end leaves no host shaped either.
        _start_keeper(state_dir, lease)
        for command in commands:
            interfaces.run(command)
        differing = set(_states({interface.name})) ^ set(wanted)
        if differing:
            raise ShapingError(
                f"{interface.name}: what was asked for and what the "
                f"kernel has differ in: {'; '.join(sorted(differing))}"
            )
    except ShapingError:
        _clear(state_dir)
        raise


def _clearing(state_dir: Path) -> list[list[str]]:
    """Commands that bring every interface back that is shaped by us, or only half so."""
    saved = read_json(state_dir / "before.json") or {"interface": "", "gso_max_segs": 0}
    commands = []
    shaped = interfaces.shaped()
    for interface in shaped:
        known = interface.name == saved["interface"]
        gso = saved["gso_max_segs"] if known else interface.gso_default
        commands += [tc.delete_root(interface.name), tc.set_gso(interface.name, gso)]
    half = interfaces.find(saved["interface"]) if saved["interface"] else None
    if half and half not in shaped and half.gso_max_segs == 1 != saved["gso_max_segs"]:
        commands.append(tc.set_gso(half.name, saved["gso_max_segs"]))
    return commands


def _clear(state_dir: Path) -> None:
    """Bring the link back, end the keeper, forget what was saved; in this order."""
    for command in _clearing(state_dir):
        interfaces.run(command)
    if left := _clearing(state_dir):
        raise ShapingError(f"not restored: {left}")
    _end_keeper(state_dir)
    for name in ("applied.json", "before.json"):
        (state_dir / name).unlink(missing_ok=True)


def _keeper(state_dir: Path) -> Process | None:
    """The keeper, if it lives."""
    saved = read_json(state_dir / "keeper.json")
    keeper = None if saved is None else Process(**saved)
    return keeper if keeper and keeper.alive else None


def _start_keeper(state_dir: Path, lease: Lease) -> None:
    """Start the keeper in place of the one that may be there."""
    _end_keeper(state_dir)
    if not detach(lambda ready: _keep(state_dir, lease, ready), state_dir / "keeper.log"):
        log = state_dir / "keeper.log"
        raise ShapingError(f"the link's keeper did not start; see {log}")


def _end_keeper(state_dir: Path) -> None:
    """End the keeper, unless it is this process; it is not restoring, for the lock is ours."""
    keeper = _keeper(state_dir)
    if keeper and keeper.pid != os.getpid() and not keeper.end(signal.SIGKILL, 5):
        raise ShapingError(f"keeper {keeper.pid} does not end")
    (state_dir / "keeper.json").unlink(missing_ok=True)


def _keep(state_dir: Path, lease: Lease, ready: Callable[[str], None]) -> None:
    """Be the keeper: restore the link when the lease has lapsed, then end."""
    own = Process.running(os.getpid())
    assert own is not None
    write_json(state_dir / "keeper.json", asdict(own))
    ready("watching")
    while True:
        time.sleep(lease.poll_s)
        if lease.lapse() is None:
            continue
        with locked(state_dir / "lock"):
            lapse = lease.lapse()  # again: waiting for the lock may have taken long
            if lapse is None:
                continue
            try:
                _clear(state_dir)
            except ShapingError as error:
                print(f"{error}; trying again", flush=True)
                continue
            print(f"{lapse}: link restored", flush=True)
            return


def _states(names: set[str]) -> list[str]:
    """What shapes the interfaces of these names that are there."""
    found = [interfaces.find(name) for name in sorted(names)]
    return [line for interface in found if interface for line in interface.state]


def _text(lines: list[str]) -> str:
    """Lines as a text that Ansible can show as a diff."""
    return "".join(f"{line}\n" for line in lines)


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``link`` to the worker's command line."""
    host = argparse.ArgumentParser(add_help=False)
    host.add_argument(
        "--host", default=socket.gethostname(), metavar="NAME", help="how errors call this host"
    )
    actions = commands.add_parser("link", help="shape this host's link, or restore it")
    verbs = actions.add_subparsers(dest="action", required=True, metavar="ACTION")
    parser = verbs.add_parser("apply", parents=[host], help="shape the link that owns an address")
    parser.add_argument(
        "--profile", required=True, metavar="JSON", help="name, rate_mbit, delay_ms"
    )
    parser.add_argument("--address", required=True, help="this host's data address")
    parser.add_argument("--peers", required=True, metavar="ADDRESS,...", help="other stages'")
    parser.add_argument("--ports", required=True, metavar="PORT,...", help="stages' data ports")
    parser.add_argument("--state-dir", type=Path, required=True, metavar="DIR")
    parser.add_argument("--lease", type=Path, required=True, metavar="FILE")
    parser.add_argument("--lease-s", type=float, required=True, metavar="S")
    parser.add_argument("--check", action="store_true", help="only say what would change")
    parser.set_defaults(run=_printing(_run_apply))
    parser = verbs.add_parser("restore", parents=[host], help="take our shaping off this host")
    parser.add_argument("--state-dir", type=Path, required=True, metavar="DIR")
    parser.add_argument("--check", action="store_true", help="only say what would change")
    parser.set_defaults(run=_printing(lambda args: restore(args.state_dir, check=args.check)))
    parser = verbs.add_parser(
        "show", parents=[host], help="what shapes the link that owns an address"
    )
    parser.add_argument("--address", required=True, help="this host's data address")
    parser.set_defaults(run=_printing(_run_show))
    parser = verbs.add_parser(
        "probe-kernel", parents=[host], help="whether netem works here, by trial"
    )
    parser.set_defaults(run=_printing(lambda _: interfaces.probe_kernel()))


def _run_apply(args: argparse.Namespace) -> Change:
    """``link apply``."""
    try:
        ports = tuple(int(port) for port in args.ports.split(",") if port)
    except ValueError as error:
        raise ShapingError(f"--ports: numbers from 1024 to 65535; got {args.ports!r}") from error
    peers = tuple(peer for peer in args.peers.split(",") if peer)
    shaping = Shaping(LinkProfile.parse(args.profile), peers, ports)
    lease = Lease(args.lease, args.lease_s)
    return apply(shaping, args.address, args.state_dir, lease, check=args.check)


def _run_show(args: argparse.Namespace) -> dict[str, Any]:
    """``link show``."""
    interface = interfaces.owning(args.address)
    return {"interface": interface.name, "shaped": interface.root == tc.ROOT,
            "state": _text(interface.state)}  # fmt: skip


def _printing(
    action: Callable[[argparse.Namespace], Change | dict[str, Any]],
) -> Callable[[argparse.Namespace], int]:
    """Print what an action returns as JSON, and what it refuses as one text on stderr."""

    def run(args: argparse.Namespace) -> int:
        try:
            result = action(args)
        except ShapingError as error:
            print(f"{args.host}: {error}", file=sys.stderr)
            return 2
        print(json.dumps(asdict(result) if isinstance(result, Change) else result))
        return 0

    return run

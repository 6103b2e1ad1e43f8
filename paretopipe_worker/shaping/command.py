"""The command ``python -m paretopipe_worker link``: shape this host's link, and restore it."""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from paretopipe_worker.host.lease import Lease
from paretopipe_worker.link.conditions import TcpSettings
from paretopipe_worker.shaping import ShapingError, htb, interfaces, tc
from paretopipe_worker.shaping.apply import Change, apply, engine_for, require_free, restore
from paretopipe_worker.shaping.egress import EgressSpec
from paretopipe_worker.usertext import shown


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``link`` to the worker's command line."""
    host = argparse.ArgumentParser(add_help=False)
    host.add_argument(
        "--host", default=socket.gethostname(), metavar="NAME", help="how errors call this host"
    )
    actions = commands.add_parser("link", help="shape this host's link, or restore it")
    verbs = actions.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_apply(verbs.add_parser("apply", parents=[host], help="shape the link of an address"))
    parser = verbs.add_parser(
        "check",
        parents=[host],
        help="say who would shape this host's links; the plan's profiles come on stdin",
    )
    _add_choice(parser)
    parser.set_defaults(run=_printing(_run_check))
    parser = verbs.add_parser("restore", parents=[host], help="take our shaping off this host")
    parser.add_argument("--state-dir", type=Path, required=True, metavar="DIR")
    parser.add_argument("--check", action="store_true", help="only say what would change")
    parser.add_argument(
        "--lease",
        type=Path,
        metavar="FILE",
        help="refuse while a run of another lease has the host",
    )
    parser.set_defaults(run=_printing(_run_restore))
    parser = verbs.add_parser(
        "show", parents=[host], help="what shapes the link that owns an address"
    )
    parser.add_argument("--address", required=True, help="this host's data address")
    parser.set_defaults(run=_printing(_run_show))
    parser = verbs.add_parser(
        "probe-kernel", parents=[host], help="whether netem and htb work here, by trial"
    )
    parser.set_defaults(run=_printing(lambda _: interfaces.probe_kernel()))


def _add_apply(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``link apply``."""
    parser.add_argument(
        "--profile",
        required=True,
        metavar="JSON",
        help='{"name": NAME, "ways": [{"peer": ADDRESS, "condition": {...}}, ...]}, or - to read '
        "it from standard input; with a trace "
        '"timetable": {"starts_s": [...], "period_s": S}, and "trace": [{...}, ...] in each way',
    )
    parser.add_argument(
        "--tcp", type=_tcp, metavar="JSON", help="TCP's settings; without it they stay as they are"
    )
    parser.add_argument("--address", required=True, help="this host's data address")
    _add_choice(parser)
    parser.add_argument("--state-dir", type=Path, required=True, metavar="DIR")
    parser.add_argument("--lease", type=Path, required=True, metavar="FILE")
    parser.add_argument("--lease-s", type=float, required=True, metavar="S")
    parser.add_argument("--check", action="store_true", help="only say what would change")
    parser.set_defaults(run=_printing(_run_apply))


def _add_choice(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that decide, together with the profile, who shapes a link."""
    parser.add_argument("--ports", required=True, metavar="PORT,...", help="stages' data ports")
    parser.add_argument(
        "--emulate", action="store_true", help="let the userspace relay shape if there is no netem"
    )


def _tcp(text: str) -> TcpSettings:
    """Read TCP's settings."""
    allowed = [field.name for field in fields(TcpSettings)]
    try:
        value = json.loads(text)
        if not isinstance(value, dict) or not set(value) <= set(allowed):
            raise ValueError(f"a JSON object of {', '.join(allowed)}; got {shown(text)}")
        return TcpSettings(**value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _egress(profile: str, args: argparse.Namespace) -> EgressSpec:
    """Read a profile, and choose who shapes."""
    try:
        ports = tuple(int(port) for port in args.ports.split(",") if port)
    except ValueError as error:
        raise ShapingError(
            f"--ports: numbers from 1024 to 32766; got {shown(args.ports)}"
        ) from error
    return _chosen(profile, ports, args.emulate)


def _chosen(profile: str, ports: tuple[int, ...], emulate: bool) -> EgressSpec:
    """Read a profile, and choose who shapes."""
    egress = EgressSpec.parse(profile, ports)
    return replace(egress, engine=engine_for(egress, emulate))


def _run_check(args: argparse.Namespace) -> dict[str, Any]:
    """Run ``link check`` on a JSON list of profiles, each with its ways by host."""
    text = sys.stdin.read()
    try:
        profiles = [
            {**profile, "ways": profile["ways"].get(args.host, [])} for profile in json.loads(text)
        ]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ShapingError(
            f"stdin: a JSON list of profiles, each with its ways by host; got {text[:200]!r}"
        ) from error
    asked = [_egress(json.dumps(profile), args) for profile in profiles]
    return {
        "engines": {egress.name: egress.engine for egress in asked},
        "warnings": [f"{args.host}: {text}" for text in warnings(asked)],
    }


def trial(
    profiles: Sequence[Mapping[str, Any]], ports: tuple[int, ...], emulate: bool
) -> list[str]:
    """Try who would shape a host's links to these profiles; return what there is to warn of.

    Raises
    ------
    ShapingError
        When nobody can.
    """
    return warnings([_chosen(json.dumps(profile), ports, emulate) for profile in profiles])


def warnings(asked: Sequence[EgressSpec]) -> list[str]:
    """Links that the certificate will probably reject."""
    return [
        f"profile {egress.name} will be shaped by htb, because this kernel has no "
        f"netem. Below {htb.CERTIFIED_FROM_MBIT:g} Mbit/s htb delivers single transfers early, "
        "by up to the time of a frame: the certificate of the link will say so"
        for egress in asked
        if egress.engine == "htb" and not all(map(htb.certifiable, egress.conditions))
    ]


def _run_apply(args: argparse.Namespace) -> Change:
    """Run ``link apply``."""
    # A trace may be longer than an argument can be (128 KiB).
    profile = sys.stdin.read() if args.profile == "-" else args.profile
    egress = _egress(profile, args)
    os.umask(0o022)  # the stages, which an ordinary user runs, read the state folder
    lease = Lease(args.lease, args.lease_s)
    return apply(egress, args.tcp, args.address, args.state_dir, lease, check=args.check)


def _run_restore(args: argparse.Namespace) -> Change:
    """Run ``link restore``."""
    if args.lease:
        require_free(args.lease)
    return restore(args.state_dir, check=args.check)


def _run_show(args: argparse.Namespace) -> dict[str, Any]:
    """Run ``link show``."""
    interface = interfaces.owning(args.address)
    return {
        "interface": interface.name,
        "shaped": interface.root == tc.ROOT,
        "state": "".join(f"{line}\n" for line in interface.state),
    }


def _printing(
    action: Callable[[argparse.Namespace], Change | dict[str, Any]],
) -> Callable[[argparse.Namespace], int]:
    """Print what an action returns as JSON, or its error as one text on stderr."""

    def run(args: argparse.Namespace) -> int:
        try:
            result = action(args)
        except (ShapingError, OSError) as error:  # such as a disk that is full
            print(f"{args.host}: {error}", file=sys.stderr)
            return 2
        print(json.dumps(asdict(result) if isinstance(result, Change) else result))
        return 0

    return run

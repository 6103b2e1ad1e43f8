"""Set the frequency governor of a host's processors, and restore the previous one.

The previous governors are kept in ``governor.json`` in a state folder, from the first change until
they are restored. A policy whose governor somebody else has changed meanwhile is left alone.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from paretopipe_worker.host.daemons import locked, read_json, write_json

_POLICIES = "sys/devices/system/cpu/cpufreq"


class GovernorError(ValueError):
    """A governor cannot be set; the text says for which policy, why, and what is allowed."""


@dataclass(frozen=True)
class Change:
    """Governors by policy, before and after; empty where the kernel has no cpufreq."""

    changed: bool
    before: dict[str, str]
    after: dict[str, str]


def choose(governor: str, state_dir: Path, root: Path = Path("/"), *, check: bool) -> Change:
    """Set the governor of all policies and keep the previous ones; with `check` change nothing.

    Parameters
    ----------
    root
        Where ``sys`` is.

    Raises
    ------
    GovernorError
        When a policy does not offer the governor or does not accept it.
    """
    now = _governors(root)
    for policy in now:
        listed = _file(root, policy, "scaling_available_governors")
        allowed = listed.read_text().split() if listed.exists() else [governor]
        if governor not in allowed:
            raise GovernorError(
                f"governor: {policy} has no {governor!r}; it has {', '.join(allowed)}"
            )
    then = dict.fromkeys(now, governor)
    if check or then == now:
        return Change(then != now, now, then)
    with locked(state_dir / "governor.lock"):
        file = state_dir / "governor.json"
        kept = read_json(file) or {"set": None, "before": {}}
        before = {
            policy: kept["before"].get(policy, found) if found == kept["set"] else found
            for policy, found in now.items()
        }
        write_json(file, {"set": governor, "before": before})
        _write(root, then)
    return Change(True, now, then)


def restore(state_dir: Path, root: Path = Path("/"), *, check: bool) -> Change:
    """Restore the governors that :func:`choose` found; with `check` change nothing.

    Raises
    ------
    GovernorError
        When a policy does not accept its previous governor; the next call tries again.
    """
    file = state_dir / "governor.json"
    now, kept = _governors(root), read_json(file)
    if kept is None:
        return Change(False, now, now)
    ours = {policy for policy, found in now.items() if found == kept["set"]}
    then = now | {policy: found for policy, found in kept["before"].items() if policy in ours}
    if not check:
        with locked(state_dir / "governor.lock"):
            _write(root, {policy: then[policy] for policy in ours})
            file.unlink(missing_ok=True)
    return Change(then != now, now, then)


def _governors(root: Path) -> dict[str, str]:
    """The current governor of each policy."""
    found = sorted((root / _POLICIES).glob("policy*/scaling_governor"))
    return {file.parent.name: file.read_text().strip() for file in found}


def _write(root: Path, governors: dict[str, str]) -> None:
    """Set governors by policy."""
    for policy, governor in governors.items():
        file = _file(root, policy, "scaling_governor")
        try:
            file.write_text(f"{governor}\n", encoding="utf-8")
        except OSError as error:
            raise GovernorError(f"governor: {file}: {error.strerror}; got {governor!r}") from error


def _file(root: Path, policy: str, name: str) -> Path:
    """One of the files of a policy."""
    return root / _POLICIES / policy / name


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``governor`` to the worker's command line."""
    parser = commands.add_parser("governor", help="set or restore this host's frequency governor")
    verbs = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--state-dir", type=Path, required=True, metavar="DIR")
    common.add_argument("--check", action="store_true", help="only say what would change")
    common.add_argument(
        "--root", type=Path, default=Path("/"), metavar="DIR", help="where sys is (/)"
    )
    parser = verbs.add_parser("set", parents=[common], help="set it, and keep the previous one")
    parser.add_argument("--governor", default="performance", metavar="NAME")
    parser.set_defaults(run=_run)
    verbs.add_parser("restore", parents=[common], help="put it back").set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    """``governor set`` and ``governor restore``: print the change as JSON."""
    os.umask(0o022)  # stages, which run as an ordinary user, read other files of this folder
    if args.action == "set":
        change = choose(args.governor, args.state_dir, args.root, check=args.check)
    else:
        change = restore(args.state_dir, args.root, check=args.check)
    print(json.dumps(asdict(change)))
    return 0

"""``python -m analysis.reproduce``: measure, analyse and seal a run; or measure a sealed one again.

This is the only module that drives Ansible, through ansible-runner. What Ansible prints is shown as
it comes. Runner's events are kept as artifacts beside the cache, those of the latest few runs, and
nothing is read from them: results come from records alone.
"""

from __future__ import annotations

import argparse
import getpass
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ansible_runner  # type: ignore[import-untyped]

from analysis.archive import ArchiveError, code, opened, seal
from analysis.disk import saying_why
from analysis.run import RunError, read
from analysis.verdict import verdict
from paretopipe_worker.plan.plan import PlanError
from paretopipe_worker.records.files import RecordError

ROOT = Path(__file__).resolve().parent.parent
_ARTIFACTS = ROOT / ".cache" / "runner"
_KEPT = 5
"""Runs whose events are kept."""

_UNREAD = (
    "{}: what it asks for runs code that is not this project's:\n  {}\n"
    "Read data/experiment.yml in the archive. If you trust this code, allow it with --allow-code"
)


@saying_why
def main(arguments: list[str] | None = None) -> int:
    """Measure, analyse and seal a run; return the exit status of the sweep.

    With an archive, the experiment is the archive's, and the verdict on both runs is printed. The
    status is 2 where nothing could be measured or compared.
    """
    parser = argparse.ArgumentParser(prog="python -m analysis.reproduce", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("experiment", nargs="?", help="experiments/NAME.yml")
    what.add_argument("--from", dest="archive", type=Path, help="a sealed run, to measure again")
    parser.add_argument("-i", "--inventory", type=Path, required=True, help="the fleet")
    parser.add_argument("--run", help="name of the run; an earlier run of this name is resumed")
    parser.add_argument("--out", type=Path, help="the new archive (default: results/RUN.zip)")
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be measured, its hours and disk"
    )
    parser.add_argument(
        "--allow-code",
        action="store_true",
        help="with --from: run code that the archive names, which you have read",
    )
    parser.add_argument(
        "-K", "--ask-become-pass", action="store_true", help="ask for the password of sudo"
    )
    options = parser.parse_args(arguments)
    try:
        if options.archive is None:
            return _measure(options, Path(options.experiment))
        with opened(options.archive) as sealed:
            if (found := code(sealed, ROOT)) and not options.allow_code:
                raise ArchiveError(_UNREAD.format(options.archive, "\n  ".join(found)))
            status = _measure(options, sealed / "experiment.yml", sealed.parent.name)
            if not options.dry_run:
                print("\n".join(verdict(read(sealed / "run"), read(_results(options.run)))))
            return status
    except (ArchiveError, RunError, PlanError, RecordError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _results(run: str) -> Path:
    """The folder of a run."""
    return ROOT / "results" / run


def _measure(options: argparse.Namespace, experiment: Path, again: str = "") -> int:
    """Sweep and, unless that is a trial, seal the run; the exit status of the sweep.

    Parameters
    ----------
    again
        Name of the run that is measured again.

    Raises
    ------
    ArchiveError
        When the archive is there already, or nothing was analysed.
    """
    if not experiment.is_file():
        raise ArchiveError(f"{experiment}: there is no such experiment; see experiments/")
    options.run = options.run or f"{again or experiment.stem}-{time.strftime('%Y%m%dT%H%M%S')}"
    out = options.out or ROOT / "results" / f"{options.run}.zip"
    if out.exists() and not options.dry_run:
        raise ArchiveError(f"{out}: is there already; name another with --out, or another --run")
    variables = {"experiment": str(experiment.resolve()), "run": options.run}
    password = getpass.getpass("sudo's password on the hosts: ") if options.ask_become_pass else ""
    status = sweep(options.inventory, variables, password, check=options.dry_run)
    if not options.dry_run:
        print(f"sealed: {seal(_results(options.run), out)}")
    return status


def sweep(
    inventory: Path, variables: Mapping[str, Any], password: str = "", *, check: bool = False
) -> int:
    """Run ``sweep.yml`` through ansible-runner; return its exit status.

    Parameters
    ----------
    inventory
        The inventory.
    variables
        Extra variables.
    password
        sudo's, where it asks for one.
    check
        Whether to plan only.
    """
    programs = Path(sys.executable).parent
    _ARTIFACTS.mkdir(parents=True, exist_ok=True)
    done = ansible_runner.run(
        private_data_dir=str(_ARTIFACTS),
        project_dir=str(ROOT),
        playbook="sweep.yml",
        inventory=str(inventory.resolve()),
        extravars=dict(variables),
        cmdline=" ".join((["--check"] if check else []) + (["-K"] if password else [])) or None,
        passwords={r"^BECOME password.*:\s*?$": password} if password else {},
        envvars={
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            # Runner shows what this plugin prints.
            "ANSIBLE_STDOUT_CALLBACK": "people",
            # Runner gives Ansible a terminal, whatever this process has.
            **({} if sys.stdout.isatty() else {"ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0"}),
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        },
        ident=f"{variables['run']}-{time.time_ns()}",
        rotate_artifacts=_KEPT,
        # Else it would leave the password in a file.
        suppress_env_files=True,
        quiet=True,
        event_handler=_show,
    )
    return int(done.rc)


def _show(event: Mapping[str, Any]) -> bool:
    """Print what Ansible printed for an event; True, so that the event is kept."""
    if text := event.get("stdout"):
        print(text, flush=True)
    return True


if __name__ == "__main__":
    sys.exit(main())

"""Find out which operators of programs a host lacks, before a session starts."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence


def lacking(operators: Sequence[str], requirements: Sequence[str] = ()) -> dict[str, str]:
    """What this host's Python lacks of operators and requirements: why, and what is allowed.

    Parameters
    ----------
    operators
        With their overloads, such as ``torchvision::nms.default``. The package of the name before
        the colons is imported where they are not registered yet.
    requirements
        As pip takes them.
    """
    from paretopipe_worker.model import natives  # imports torch, which the command line must not

    found = {
        each: f"requirements: {each} is not satisfied: {reason}; allowed: install it for "
        f"{sys.executable}"
        for each in requirements
        if (reason := _unsatisfied(each))
    }
    for package, names in natives.missing(operators).items():
        said = (
            f"package {package!r} is not there or has no {', '.join(names)}, which programs of "
            f"this sweep need; allowed: `requirements` of the model in the spec, which pip "
            f"installs where no worker_python is given, or installing the package for "
            f"{sys.executable}"
        )
        found |= dict.fromkeys(names, said)
    return found


def _unsatisfied(requirement: str) -> str | None:
    """Why pip would have to install something for a requirement; None where it need not."""
    words = ("--dry-run", "--report=/dev/null", "--no-index", "--no-deps", "--no-input", "-q")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            *words,
            "--disable-pip-version-check",
            requirement,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    said = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
    if done.returncode == 0:
        return None
    return said[-1].removeprefix("ERROR: ") if said else (done.stderr.strip() or "pip failed")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``operators`` to the worker's command line."""
    parser = commands.add_parser(
        "operators", help="list the operators that this host lacks, as JSON"
    )
    parser.add_argument("operators", nargs="*", metavar="NAMESPACE::NAME.OVERLOAD")
    parser.add_argument("--requirement", action="append", default=[], help="as pip takes it")
    parser.set_defaults(run=_operators)


def _operators(options: argparse.Namespace) -> int:
    """``operators``: print what is lacking, and why, as JSON."""
    print(json.dumps(lacking(options.operators, options.requirement)))
    return 0

"""Check that a host has what the operators of programs need, before a session starts."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence


class OperatorError(ValueError):
    """Operators or packages that this host lacks: a line each, with what is allowed."""


def check(operators: Sequence[str], requirements: Sequence[str] = ()) -> None:
    """Hold that this host's Python has operators, and satisfies requirements.

    Parameters
    ----------
    operators
        With their overloads, such as ``torchvision::nms.default``. The package of the name before
        the colons is imported where they are not registered yet.
    requirements
        As pip takes them.

    Raises
    ------
    OperatorError
        When it does not.
    """
    from paretopipe_worker.model import natives  # imports torch, which the command line must not

    lines = [
        f"requirements: {each} is not satisfied: {reason}; allowed: install it for {sys.executable}"
        for each in requirements
        if (reason := _unsatisfied(each))
    ]
    lines += [
        f"package {package!r} is not there or has no {', '.join(names)}, which programs of this "
        f"sweep need; allowed: `requirements` of the model in the spec, which pip installs where "
        f"no worker_python is given, or installing the package for {sys.executable}"
        for package, names in natives.missing(operators).items()
    ]
    if lines:
        raise OperatorError("\n".join(lines))


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
    parser = commands.add_parser("operators", help="check that this host has operators")
    parser.add_argument("operators", nargs="*", metavar="NAMESPACE::NAME.OVERLOAD")
    parser.add_argument("--requirement", action="append", default=[], help="as pip takes it")
    parser.set_defaults(run=_operators)


def _operators(options: argparse.Namespace) -> int:
    """``operators``: say nothing where all is there."""
    check(options.operators, options.requirement)
    return 0

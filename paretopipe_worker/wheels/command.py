"""``wheels``: what a fleet installs, and what a wheelhouse holds. The playbooks call it."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``wheels`` to the worker's command line."""
    parser = commands.add_parser(
        "wheels", help="what hosts install, and what a wheelhouse holds; hosts as JSON on stdin"
    )
    parser.add_argument("--requirements", type=Path, required=True, metavar="FILE")
    parser.add_argument("--runtimes", type=Path, required=True, metavar="FILE")
    parser.add_argument("--cache", type=Path, required=True, metavar="DIR")
    parser.add_argument("--wheelhouse", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--collect", action="store_true", help="fill the wheelhouse instead of choosing from it"
    )
    parser.add_argument("--check", action="store_true", help="collect nothing, say what it would")
    parser.set_defaults(run=_wheels)


def _wheels(options: argparse.Namespace) -> int:
    """``wheels``: print the answer as JSON."""
    from paretopipe_worker.wheels import answers, choosing, needs

    given = answers.read(sys.stdin.read())
    wanted, runtimes = needs.pins(options.requirements), needs.pins(options.runtimes)
    hosts = [each.host(Path.cwd(), runtimes) for each in given]
    if options.collect:
        answer = answers.collected(
            hosts, wanted, runtimes, options.wheelhouse, options.cache, options.check
        )
    else:
        chosen = choosing.choose(hosts, wanted, runtimes, options.wheelhouse, options.cache)
        folders = {each.name: each.folder for each in given}
        answer = answers.chosen_as_json(chosen, folders)
    print(json.dumps(answer))
    return 0

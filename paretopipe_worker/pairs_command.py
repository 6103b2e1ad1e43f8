"""The commands for a table of links: ``pairs`` plans it, ``pair`` measures two hosts' link on one.

``pair`` runs on hosts on which nothing is installed yet, from a wheel and by the standard library.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from typing import TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_parsers(commands: Commands) -> None:
    """Add the commands."""
    parser = commands.add_parser("pairs", help="plan a table of links, as JSON")
    parser.add_argument("--side-by-side", action="store_true", help="disjoint pairs at once")
    parser.set_defaults(run=_pairs)
    parser = commands.add_parser("pair", help="measure the link to another host, which does so too")
    parser.set_defaults(run=_pair)


def _pairs(options: argparse.Namespace) -> int:
    """Plan a table: hosts and settings come from standard input."""
    from paretopipe_worker.link.conditions import TcpSettings
    from paretopipe_worker.plan import fleet, rounds

    said = json.load(sys.stdin)
    hosts = fleet.parse(json.dumps(said["hosts"]))
    settings = rounds.parse(said["settings"])
    made = rounds.table(hosts, settings, side_by_side=options.side_by_side)
    document = {
        "table": asdict(made),
        "text": rounds.told(made),
        "tcp": asdict(TcpSettings()),
        "deadline_s": rounds.longest_s(settings),
    }
    print(json.dumps(document))
    return 0


def _pair(options: argparse.Namespace) -> int:
    """Measure as one of two hosts: the task comes from standard input, the result is printed."""
    from paretopipe_worker.session import pair

    print(json.dumps(asdict(pair.run(pair.Task.parse(sys.stdin.read())))))
    return 0

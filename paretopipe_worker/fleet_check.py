"""Commands by which the playbooks ask the hosts of a fleet what they are, and judge the answers."""

from __future__ import annotations

import argparse
import json
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``questions`` and ``judge`` to the worker's command line."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--results", type=Path, help="results/RUN, where there is a plan")
    parser = commands.add_parser(
        "questions",
        parents=[common],
        help="list what hosts are to be asked, as JSON; on stdin are `hosts`, `asked` and `token`",
    )
    parser.set_defaults(run=_questions)
    parser = commands.add_parser(
        "judge",
        parents=[common],
        help="print what is wrong with hosts; on stdin are `hosts`, `answers` and `allow`",
    )
    parser.add_argument("--run", default="", dest="run_name", help="name of the run")
    parser.add_argument("--cache", type=Path, required=True, help="where programs are kept")
    parser.add_argument("--package", type=Path, required=True, help="the worker package's wheel")
    parser.set_defaults(run=_judge)


def _questions(options: argparse.Namespace) -> int:
    """``questions``: what each host is asked, by host."""
    from paretopipe_worker.fitness.questions import questions
    from paretopipe_worker.plan import fleet, plan

    given = json.load(sys.stdin)
    hosts = fleet.parse(json.dumps(given["hosts"]))
    read = plan.read(options.results / "plan.json") if options.results else None
    print(json.dumps(questions(hosts, read, given["asked"], given["token"])))
    return 0


def _judge(options: argparse.Namespace) -> int:
    """``judge``: the table, and the number of problems and notes, as JSON."""
    from paretopipe_worker.fitness import answers, findings
    from paretopipe_worker.plan import fleet, plan

    given = json.load(sys.stdin)
    hosts = fleet.parse(json.dumps(given["hosts"]))
    told = {name: answers.parse(answer) for name, answer in given["answers"].items()}
    read = plan.read(options.results / "plan.json") if options.results else None
    with zipfile.ZipFile(options.package) as package:
        size = sum(entry.file_size for entry in package.infolist())
    found = findings.allowed(
        _findings(hosts, told, read, options.run_name, size, options.cache), given["allow"]
    )
    print(
        json.dumps(
            {
                "table": findings.table(found, [host.name for host in hosts]),
                "problems": sum(not each.note for each in found),
                "notes": sum(each.note for each in found),
                "hosts": sorted({each.host for each in found if not each.note}),
            }
        )
    )
    return 0


def _findings(
    hosts: Any, told: Mapping[str, Any], read: Any, run: str, package_bytes: int, cache: Path
) -> Iterator[Any]:
    """Everything that is wrong, or worth a note."""
    from paretopipe_worker.fitness import machine, needs, network

    fleet = {host.name: host for host in hosts if host.name in told}
    for name, answer in told.items():
        yield from machine.access(name, answer)
        if answer.root is not None:
            yield from network.sweeps(name, answer.root.sweeps, run)
        user = answer.user
        if user is None:
            continue
        yield from machine.machine(name, user)
        yield from machine.worker(name, user)
        yield from machine.state(name, user, answer.given.governor)
        yield from network.clock(name, user, answer.sent_unix_ns, answer.received_unix_ns)
        yield from network.ports(fleet[name], answer, run)
        yield from needs.disk(name, user, read, package_bytes, cache)
        yield from needs.devices(fleet[name], user)
        yield from needs.links(name, answer)
    yield from network.paths(hosts, told)
    if read is not None:
        yield from needs.memory_left(read, told, fleet)

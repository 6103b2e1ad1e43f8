"""Commands by which the playbooks ask the hosts of a fleet what they are, and judge the answers."""

from __future__ import annotations

import argparse
import json
import sys
import zipfile
from pathlib import Path


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
    from paretopipe_worker.fitness import answers, findings, judging
    from paretopipe_worker.plan import fleet, plan

    given = json.load(sys.stdin)
    hosts = fleet.parse(json.dumps(given["hosts"]))
    told = {name: answers.parse(answer) for name, answer in given["answers"].items()}
    read = plan.read(options.results / "plan.json") if options.results else None
    with zipfile.ZipFile(options.package) as package:
        size = sum(entry.file_size for entry in package.infolist())
    sweep = judging.Sweep(read, options.run_name, size, options.cache)
    found = findings.allowed(judging.judge(hosts, told, sweep), given["allow"])
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

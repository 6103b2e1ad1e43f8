"""Commands by which the playbooks ask the hosts of a fleet what they are, and judge the answers."""

from __future__ import annotations

import argparse
import json
import os
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

_PACKAGE = Path(__file__).parent

_ASKING = (
    *("__init__.py", "survey.py", "bounded.py", "usertext.py"),
    *("host/*.py", "link/*.py", "shaping/*.py"),
)
"""Files of the package that `paretopipe_worker.survey` is made of."""


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``questions`` and ``judge`` to the worker's command line."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--results", type=Path, help="results/RUN, where there is a plan")
    parser = commands.add_parser(
        "questions",
        parents=[common],
        help="list what hosts are to be asked, as JSON; on stdin are `hosts`, `asked` and `token`",
    )
    parser.add_argument(
        "--package", type=Path, required=True, metavar="FILE", help="where to write what asks them"
    )
    parser.set_defaults(run=_questions)
    parser = commands.add_parser(
        "judge",
        parents=[common],
        help="print what is wrong with hosts; on stdin are `hosts`, `answers` and `allow`",
    )
    parser.add_argument("--run", default="", dest="run_name", help="name of the run")
    parser.add_argument("--cache", type=Path, required=True, help="where programs are kept")
    parser.set_defaults(run=_judge)


def _questions(options: argparse.Namespace) -> int:
    """``questions``: what each host is asked, by host, and the package that asks."""
    from paretopipe_worker.fitness.questions import questions
    from paretopipe_worker.plan import fleet, plan

    given = json.load(sys.stdin)
    hosts = fleet.parse(json.dumps(given["hosts"]), least=1)
    read = plan.read(options.results / "plan.json") if options.results else None
    _write_package(options.package)
    print(json.dumps(questions(hosts, read, given["asked"], given["token"])))
    return 0


def _judge(options: argparse.Namespace) -> int:
    """``judge``: the table, and the number of problems and notes, as JSON."""
    from paretopipe_worker.fitness import answers, findings, judging
    from paretopipe_worker.plan import fleet, plan

    given = json.load(sys.stdin)
    hosts = fleet.parse(json.dumps(given["hosts"]), least=1)
    told = {name: answers.parse(answer) for name, answer in given["answers"].items()}
    read = plan.read(options.results / "plan.json") if options.results else None
    size = sum(file.stat().st_size for file in _files("**/*.py"))
    plan_size = (options.results / "plan.json").stat().st_size if options.results else 0
    sweep = judging.Sweep(read, options.run_name, size, plan_size, options.cache)
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


def _write_package(path: Path) -> None:
    """Zip what asks hosts; who reads it meanwhile has the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as package:
        for file in _files(*_ASKING):
            package.write(file, file.relative_to(_PACKAGE.parent))
    partial.replace(path)


def _files(*patterns: str) -> Iterator[Path]:
    """Files of this package."""
    for pattern in patterns:
        yield from sorted(_PACKAGE.glob(pattern))

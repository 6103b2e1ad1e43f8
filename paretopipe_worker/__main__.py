"""Command line of the worker package: ``python -m paretopipe_worker COMMAND``.

Each command imports what it needs when it runs. The commands that shape a device's link or launch
its stage so start fast, without pydantic or torch.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import select
import signal
import sys
import textwrap
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TypeAlias

from paretopipe_worker import abilities, fleet_check, model_command, operators, pairs_command
from paretopipe_worker.host import governor, preflight, supervise
from paretopipe_worker.shaping import command as link_command
from paretopipe_worker.wheels import command as wheels_command

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Errors of a disk that takes nothing: what helps is said by their text, not by a traceback."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; it reports what it refuses on stderr and with exit status 2."""
    parser = argparse.ArgumentParser(prog="python -m paretopipe_worker", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    model_command.add_parsers(commands)
    _add_links(commands)
    _add_prepare(commands)
    _add_needs(commands)
    _add_todo(commands)
    _add_record_failure(commands)
    _add_stage(commands)
    supervise.add_parsers(commands)
    link_command.add_parser(commands)
    governor.add_parser(commands)
    preflight.add_parser(commands)
    fleet_check.add_parsers(commands)
    operators.add_parser(commands)
    abilities.add_parser(commands)
    wheels_command.add_parser(commands)
    pairs_command.add_parsers(commands)
    options = parser.parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        status = run(options)
        sys.stdout.flush()
        return status
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    except BrokenPipeError:
        if not _nobody_reads():
            raise
        return 128 + signal.SIGPIPE
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        print(error, file=sys.stderr)
        return 2


def _nobody_reads() -> bool:
    """Whether standard output is a pipe that is closed at its other end, as after ``| head``."""
    number = sys.stdout.fileno()
    poll = select.poll()
    poll.register(number, 0)
    if not any(events & select.POLLERR for _, events in poll.poll(0)):
        return False
    # What is left in the buffer must go somewhere when Python ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), number)
    return True


def _add_links(commands: Commands) -> None:
    parser = commands.add_parser("links", help="list the link presets and their sources")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.set_defaults(run=_links)


def _links(options: argparse.Namespace) -> int:
    """List the presets, as a spec would write them."""
    from paretopipe_worker.link.presets import PRESETS

    if options.json:
        print(json.dumps({name: asdict(preset) for name, preset in PRESETS.items()}, indent=1))
        return 0
    for name, preset in PRESETS.items():
        print(name)
        for key, value in preset.profile.items():
            shown = (
                ", ".join(f"{k}: {v}" for k, v in value.items())
                if isinstance(value, dict)
                else value
            )
            print(f"  {key}: {shown}")
        print(textwrap.fill(preset.source, 96, initial_indent="  ", subsequent_indent="  "))
    return 0


def _add_prepare(commands: Commands) -> None:
    parser = commands.add_parser("prepare", help="check spec and inventory, make the plan")
    parser.add_argument("--experiment", type=Path, required=True, help="experiments/NAME.yml")
    parser.add_argument(
        "--fleet", required=True, help="JSON list of the hosts of group 'stages'; - is stdin"
    )
    parser.add_argument("--run", required=True, help="name of the run", dest="run_name")
    parser.add_argument("--results", type=Path, required=True, help="results/RUN")
    parser.add_argument("--cache", type=Path, required=True, help="where programs are kept")
    parser.add_argument("--check", action="store_true", help="write no plan")
    _add_side_by_side(parser)
    parser.set_defaults(run=_prepare)


def _add_side_by_side(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--side-by-side",
        action="store_true",
        help="sessions without a common host may run at the same time",
    )


def _prepare(options: argparse.Namespace) -> int:
    """Check the spec and the inventory, then make the plan and print its summary."""
    from paretopipe_worker.plan import disk, fleet, resume, spec, summary

    experiment = spec.read(options.experiment)
    hosts = fleet.parse(sys.stdin.read() if options.fleet == "-" else options.fleet)
    made = resume.planned(experiment, hosts, options.results, options.cache)
    if made is None:
        from paretopipe_worker.prepare import prepare

        made = prepare(
            options.run_name,
            experiment,
            hosts,
            options.results,
            options.cache,
            side_by_side=options.side_by_side,
            check=options.check,
        )
    resume.hold(made, options.results)
    print(summary.summary(made))
    print(disk.told(made, options.cache))
    return 0


def _add_needs(commands: Commands) -> None:
    parser = commands.add_parser("needs", help="list what each host of a run must have, as JSON")
    parser.add_argument("--results", type=Path, required=True, help="results/RUN")
    parser.set_defaults(run=_needs)


def _needs(options: argparse.Namespace) -> int:
    """Print the operators, requirements and packages that each host of a plan needs."""
    from paretopipe_worker.plan import abilities as of_hosts
    from paretopipe_worker.plan import plan

    print(json.dumps(of_hosts.needs(plan.read(options.results / "plan.json"))))
    return 0


def _add_todo(commands: Commands) -> None:
    parser = commands.add_parser("todo", help="list the sessions a run still lacks, as JSON")
    parser.add_argument("--results", type=Path, required=True, help="results/RUN")
    parser.add_argument(
        "--retry-failed", action="store_true", help="also the points that failed by themselves"
    )
    parser.add_argument(
        "--known",
        type=argparse.FileType(encoding="utf-8"),
        metavar="FILE",
        help="JSON with what is known of the hosts (paretopipe_worker/plan/known.py); - is stdin",
    )
    _add_side_by_side(parser)
    parser.add_argument(
        "--cache",
        type=Path,
        help="where programs are kept: make files of the tensors that each host needs",
    )
    parser.set_defaults(run=_todo)


def _todo(options: argparse.Namespace) -> int:
    """Print the sessions that lack a complete set of records, with the points that lack it."""
    from paretopipe_worker.plan import abilities as of_hosts
    from paretopipe_worker.plan import controller, known, lanes, memory, plan, resume, sending

    def pack(whole: str, share: sending.Share) -> str:
        from paretopipe_worker import prepare

        return prepare.pack(read, whole, share, options.cache)

    read = plan.read(options.results / "plan.json")
    # By a file: of hundreds of hosts this is more than an argument may hold.
    told = known.parse(options.known.read()) if options.known else known.Known()
    refusals = {} if told.memory is None else memory.refused(read, told.memory)
    if told.abilities is not None:
        refusals |= of_hosts.refused(read, told.abilities)
    refusals = lanes.together(read, refusals)
    controller.refuse(read, options.results, refusals)
    made = resume.todo(
        read,
        options.results,
        retry_failed=options.retry_failed,
        uncertified=told.uncertified,
        torch=told.torch,
        sending=sending.Sending(read, refusals, pack if options.cache else None),
        side_by_side=options.side_by_side,
    )
    print(json.dumps(made))
    return 0


def _add_record_failure(commands: Commands) -> None:
    parser = commands.add_parser("record-failure", help="record that a session failed")
    parser.add_argument("--results", type=Path, required=True, help="results/RUN")
    parser.add_argument("--session", required=True)
    parser.add_argument("--attempt", type=int, required=True)
    parser.add_argument("--reason", required=True, help="why; - reads it from stdin")
    _add_points(parser)
    parser.set_defaults(run=_record_failure)


def _add_points(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--points",
        type=lambda text: tuple(text.split(",")),
        metavar="ID,...",
        help="only these points of the session",
    )
    # By a file: thousands of points are more than an argument may hold.
    parser.add_argument(
        "--points-from",
        type=lambda path: tuple(Path(path).read_text(encoding="utf-8").split()),
        dest="points",
        metavar="FILE",
        help="the same from a file, apart by white space",
    )


def _record_failure(options: argparse.Namespace) -> int:
    """Write the controller's record of a failed session and print its path."""
    from paretopipe_worker.plan import controller, plan

    made = plan.read(options.results / "plan.json")
    session = made.session(options.session).only(options.points)
    path = controller.record_failure(
        made,
        session,
        options.attempt,
        options.results,
        sys.stdin.read() if options.reason == "-" else options.reason,
    )
    print(path)
    return 0


def _add_stage(commands: Commands) -> None:
    parser = commands.add_parser("stage", help="run one stage of one session")
    parser.add_argument("--plan", type=Path, required=True, help="plan.json")
    parser.add_argument("--session", required=True)
    parser.add_argument("--attempt", type=int, required=True)
    parser.add_argument("--host", required=True, help="this host's name in the plan")
    parser.add_argument(
        "--secret", type=Path, required=True, help="file of the run's secret, of mode 0600"
    )
    parser.add_argument("--programs", type=Path, required=True, help="folder of the programs")
    parser.add_argument("--tensors", metavar="NAME", help="file there with this host's tensors")
    parser.add_argument("--records", type=Path, required=True, help="file to write records to")
    parser.add_argument("--progress", type=Path, required=True, help="file of finished points")
    parser.add_argument(
        "--link-state", type=Path, metavar="DIR", help="folder that says how this link is shaped"
    )
    _add_points(parser)
    parser.set_defaults(run=_stage)


def _stage(options: argparse.Namespace) -> int:
    """Run one stage process."""
    from paretopipe_worker.session import stage

    return stage.run(
        stage.Options(
            plan=options.plan,
            session=options.session,
            attempt=options.attempt,
            host=options.host,
            secret=options.secret,
            programs=options.programs,
            tensors=options.tensors,
            records=options.records,
            progress=options.progress,
            link_state=options.link_state,
            points=options.points,
        )
    )


if __name__ == "__main__":
    sys.exit(main())

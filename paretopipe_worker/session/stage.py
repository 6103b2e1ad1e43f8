"""One stage process: set up, find the others, run the session, say how it ended."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch

from paretopipe_worker.host import facts, timers
from paretopipe_worker.host import load as loads
from paretopipe_worker.link import state as linkstate
from paretopipe_worker.link.replay import ReplayError
from paretopipe_worker.link.state import LinkState
from paretopipe_worker.model.program import PartitionError
from paretopipe_worker.model.usercode import told
from paretopipe_worker.model.weights import WeightsError
from paretopipe_worker.plan import code, identity
from paretopipe_worker.plan import plan as plans
from paretopipe_worker.records.files import Writer
from paretopipe_worker.records.lines import SCHEMA, End, Header
from paretopipe_worker.session.context import Shares
from paretopipe_worker.session.control import ControlError
from paretopipe_worker.session.follower import Follower
from paretopipe_worker.session.join import Seat, StageError, joined
from paretopipe_worker.session.source import Source
from paretopipe_worker.transport.api import TransportError
from paretopipe_worker.transport.secret import SecretFileError, read_secret


class Interrupted(BaseException):
    """A signal told the process to end; no handler of exceptions on the way may swallow it."""


@dataclass(frozen=True)
class Options:
    """What a stage is launched with; all files are on its own host.

    `secret` holds what the stages of a launch know and nobody else does. `link_state` is the folder
    that ``link apply`` keeps; None where no link was applied. `points` are those to measure; None
    means all points of the session. `tensors` names the file in folder `programs` with the tensors
    that this host was sent; None means that of all.
    """

    plan: Path
    session: str
    attempt: int
    host: str
    secret: Path
    programs: Path
    records: Path
    progress: Path
    link_state: Path | None = None
    tensors: str | None = None
    points: tuple[str, ...] | None = None


def run(options: Options) -> int:
    """Run one stage; return the exit status, 0 where the whole session went well.

    The last line of its records says how it ended, and why if it failed.
    """
    shares = Shares()
    process_start_ns = facts.process_start_ns()
    plan = plans.read(options.plan)
    session = plan.session(options.session).only(options.points)
    link = linkstate.read(options.link_state)
    told_to_end = _told_to_end()
    host = plan.host(options.host)
    if host.threads is not None:
        torch.set_num_threads(host.threads)
    if host.device_emulated > 1:
        timers.be_exact()
    reason: str | None = f"{options.host}: ended unexpectedly"
    interrupted = False
    wall_clock_ns = time.time_ns() - time.perf_counter_ns()
    with Writer(options.records) as writer:
        writer.write(header(plan, session, options.attempt, options.host, link))
        shares.ns["startup"] += time.perf_counter_ns() - process_start_ns
        try:
            _session(plan, session, options, link, writer, shares)
            reason = None
        except _EXPECTED as error:
            reason = f"{options.host}: {told_to_end[0] if told_to_end else error}"
            interrupted = bool(told_to_end)
        except Exception as error:
            # A library may make an error of its own of the signal's exception.
            reason = f"{options.host}: {told_to_end[0] if told_to_end else told(error)}"
            interrupted = bool(told_to_end)
            if not interrupted:
                raise
        finally:
            writer.write(
                End(
                    status="failed" if reason else "ok",
                    reason=reason,
                    process_start_ns=process_start_ns,
                    end_ns=time.perf_counter_ns(),
                    shares_ns=dict(shares.ns),
                    wall_clock_step_ns=time.time_ns() - time.perf_counter_ns() - wall_clock_ns,
                    interrupted=interrupted,
                )
            )
    return 1 if reason else 0


_EXPECTED = (
    TransportError,
    ControlError,
    StageError,
    SecretFileError,
    PartitionError,
    WeightsError,
    ReplayError,
    Interrupted,
)


def _session(
    plan: plans.Plan,
    session: plans.Session,
    options: Options,
    link: LinkState,
    writer: Writer,
    shares: Shares,
) -> None:
    """Join the others and run this rank's part."""
    if (asked := session.busy and bool(plan.host(options.host).busy)) != (loads.TOLD in os.environ):
        wanted = "one is to run" if asked else "none is to run"
        raise StageError(f"the background load of this host is not as planned: {wanted}")
    rank, secret = session.placement.index(options.host), read_secret(options.secret)
    seat = Seat(
        plan, session, options.attempt, rank, secret, options.programs, link, options.tensors
    )
    with (
        joined(seat, writer, shares) as (context, channels),
        torch.inference_mode(),
        _collector_off(),
    ):
        if rank == 0:
            Source(context, channels, options.progress).run()
        else:
            Follower(context, channels[0]).run()


@contextlib.contextmanager
def _collector_off() -> Iterator[None]:
    """Turn the garbage collector off, since its runs would count as items' time.

    It is run before each leg instead.
    """
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def header(
    plan: plans.Plan, session: plans.Session, attempt: int, host: str, link: LinkState
) -> Header:
    """The first line of the records."""
    load = os.environ.get(loads.TOLD)
    return Header(
        run=plan.run,
        session=session.id,
        attempt=attempt,
        replicate=session.replicate,
        host=host,
        rank=session.placement.index(host),
        backend=session.backend,
        link=session.link,
        model=session.model,
        points=session.points,
        plan_sha256=identity.digest(plan),
        code_sha256=code.digest(),
        torch=torch.__version__.partition("+")[0],
        device_emulated=plan.host(host).device_emulated,
        link_engine=link.engine,
        link_emulated=link.engine == "relay",
        tcp=link.tcp,
        started_unix_ns=time.time_ns(),
        facts=facts.host(),
        versions=facts.versions() | ({loads.TOOL: loads.version() or ""} if load else {}),
        schema=SCHEMA,
        load=load,
    )


def _told_to_end() -> list[Interrupted]:
    """Turn signals into exceptions, so that the records get their last line.

    Returns
    -------
    A list to which each such exception is added, also where it does not get through.
    """
    found: list[Interrupted] = []

    def interrupt(number: int, _: FrameType | None) -> None:
        found.append(Interrupted(f"ended by {signal.Signals(number).name}"))
        raise found[-1]

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, interrupt)
    return found

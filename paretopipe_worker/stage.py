"""One stage process: set up, find the others, run the session, say how it ended."""

from __future__ import annotations

import gc
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from paretopipe_worker import control, facts, models
from paretopipe_worker import plan as plans
from paretopipe_worker.context import Context, Shares
from paretopipe_worker.control import Channel, ControlError
from paretopipe_worker.fleet import Host
from paretopipe_worker.follower import Follower
from paretopipe_worker.partition import PartitionError, trace
from paretopipe_worker.records import End, Header, Ready, Writer
from paretopipe_worker.source import Source
from paretopipe_worker.transport import Endpoint, TransportError, connect

RENDEZVOUS_S = 120.0
"""How long a stage waits for the others: they may still be loading a large model."""


class Interrupted(Exception):
    """The process was told to end by a signal."""


class StageError(RuntimeError):
    """A stage cannot take part in the session: what is missing or does not agree."""


@dataclass(frozen=True)
class Options:
    """What a stage is launched with; all files are on its own host."""

    plan: Path
    session: str
    attempt: int
    host: str
    weights: Path
    records: Path
    progress: Path


def run(options: Options) -> int:
    """Run one stage; return the exit status, 0 where the whole session went well.

    Whatever happens, the records say it: their last line has the reason.
    """
    shares = Shares()
    process_start_ns = facts.process_start_ns()
    plan = plans.load(options.plan)
    session = plan.session(options.session)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    host = plan.host(options.host)
    if host.threads is not None:
        torch.set_num_threads(host.threads)
    reason: str | None = f"{options.host}: ended unexpectedly"
    with Writer(options.records) as writer:
        writer.write(_header(plan, session, options))
        shares.ns["startup"] += time.perf_counter_ns() - process_start_ns
        try:
            _session(plan, session, options, writer, shares)
            reason = None
        except _EXPECTED as error:
            reason = f"{options.host}: {error}"
        except Exception as error:
            reason = f"{options.host}: {type(error).__name__}: {error}"
            raise
        finally:
            writer.write(
                End(
                    status="failed" if reason else "ok",
                    reason=reason,
                    process_start_ns=process_start_ns,
                    end_ns=time.perf_counter_ns(),
                    shares_ns=dict(shares.ns),
                )
            )
    return 1 if reason else 0


_EXPECTED = (
    TransportError,
    ControlError,
    StageError,
    PartitionError,
    models.ModelError,
    Interrupted,
)


def _session(
    plan: plans.Plan, session: plans.Session, options: Options, writer: Writer, shares: Shares
) -> None:
    """Load the model, join the others, run this rank's part."""
    rank = session.placement.index(options.host)
    with shares.kind("startup"):
        point = plan.point(session.points[0])
        table = plan.table(session.model, point.batch, point.dtype)
        model = models.build(
            session.model,
            seed=plan.experiment.seed,
            input_shape=table.input.shape[1:],
            weights=_weights(options.weights, table.weights_sha256),
        )
        example = models.example_input(table.input, seed=plan.experiment.seed, index=0)
        traced = trace(model, example)
    with shares.kind("rendezvous"):
        hosts = [plan.host(name) for name in session.placement]
        following = hosts[(rank + 1) % len(hosts)]
        name = f"{plan.run}/{session.id}.{options.attempt}"
        transport = connect(
            session.backend,
            Endpoint(
                rank=rank,
                own=(hosts[rank].data_address, hosts[rank].data_port),
                next=(following.data_address, following.data_port),
                session=name,
            ),
            deadline_s=RENDEZVOUS_S,
        )
        hello: dict[str, Any] = {
            "session": name,
            "rank": rank,
            "host": options.host,
            "numerics": facts.numerics(),
            "torch": torch.__version__.partition("+")[0],
            "weights_sha256": table.weights_sha256,
        }
        context = Context(
            plan=plan,
            session=session,
            rank=rank,
            host=hosts[rank],
            model=model,
            traced=traced,
            numerics=facts.numerics(),
            transport=transport,
            writer=writer,
            shares=shares,
        )
        channels = _join(hosts, rank, hello)
        writer.write(
            Ready(
                transport=transport.facts(),
                numerics={
                    str(channel.hello["rank"]): channel.hello["numerics"] for channel in channels
                },
            )
        )
    # A collection in the middle of an item would be measured as the stage's work.
    gc.freeze()
    gc.disable()
    try:
        part = (
            Source(context, channels, options.progress)
            if rank == 0
            else Follower(context, channels[0])
        )
        with torch.inference_mode():
            part.run()
    finally:
        for channel in channels:
            channel.close()
        transport.close()


def _join(hosts: list[Host], rank: int, hello: dict[str, Any]) -> list[Channel]:
    """Open the control channels and see that all ranks run the same thing.

    Raises
    ------
    StageError
        Naming the rank and what does not agree.
    """
    source = hosts[0]
    if rank == 0:
        channels = control.lead(
            source.data_address, source.control_port, hello, len(hosts), RENDEZVOUS_S
        )
    else:
        channels = [
            control.follow(
                source.data_address,
                source.control_port,
                hosts[rank].data_address,
                hello,
                RENDEZVOUS_S,
            )
        ]
    for channel in channels:
        for key in ("torch", "weights_sha256"):
            if channel.hello.get(key) != hello[key]:
                raise StageError(
                    f"{channel.peer} has {key} {channel.hello.get(key)}, this host {hello[key]}; "
                    "all stages of a session must have the same"
                )
    return channels


def _weights(directory: Path, sha256: str) -> Path:
    """The file of the weights that the plan names."""
    path = directory / f"{sha256}.safetensors"
    if not path.is_file():
        raise StageError(f"{path}: the plan's weights are not on this host; run the sweep again")
    return path


def _header(plan: plans.Plan, session: plans.Session, options: Options) -> Header:
    """The first line of the records."""
    point = plan.point(session.points[0])
    return Header(
        run=plan.run,
        session=session.id,
        attempt=options.attempt,
        replicate=session.replicate,
        host=options.host,
        rank=session.placement.index(options.host),
        backend=session.backend,
        link=session.link,
        model=session.model,
        points=session.points,
        weights_sha256=plan.table(point.model, point.batch, point.dtype).weights_sha256,
        device_emulated=plan.host(options.host).device_emulated,
        started_unix_ns=time.time_ns(),
        facts=facts.host(),
        versions=facts.versions(),
    )


def _interrupt(number: int, _: FrameType | None) -> None:
    """Turn a signal into an exception, so that the records get their last line."""
    raise Interrupted(f"ended by {signal.Signals(number).name}")

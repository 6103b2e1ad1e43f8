"""Bring one rank into its session: load the model, join the ring, find rank 0, agree."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from paretopipe_worker.cuts import FLOAT32
from paretopipe_worker.host import facts
from paretopipe_worker.link.state import LinkState
from paretopipe_worker.model import inputs, loading, weights
from paretopipe_worker.model.partition import Partitioned
from paretopipe_worker.plan import identity
from paretopipe_worker.plan import plan as plans
from paretopipe_worker.plan.fleet import Host
from paretopipe_worker.plan.lanes import hosts_of
from paretopipe_worker.plan.plan import Plan, Session
from paretopipe_worker.records.files import Writer
from paretopipe_worker.records.lines import SCHEMA, Ready
from paretopipe_worker.session import control, meeting
from paretopipe_worker.session.context import Context, Shares
from paretopipe_worker.session.control import Channel
from paretopipe_worker.session.meeting import Lane, lane_names
from paretopipe_worker.transport.agreement import Agreement
from paretopipe_worker.transport.api import Endpoint, Transport, connect
from paretopipe_worker.transport.handshake import Identity
from paretopipe_worker.transport.patience import Patience

PATH_BACKEND = "tcp"
"""Backend over which every session measures its path."""

RENDEZVOUS_S = 120.0
"""How long a stage waits for the others: they may still be loading a large model."""


class StageError(RuntimeError):
    """A stage cannot take part in the session; the text says what is missing or differs."""


@dataclass(frozen=True)
class Seat:
    """One rank's place in an attempt at a session, and what its host brings along.

    `secret` is what all ranks of the session know and nobody else does, `programs` the folder of
    the programs and their tensors, which are named by their checksums, `link` the link as it was
    applied to the host. `tensors` is the name of the file with those tensors that this host was
    sent; None for that of all.
    """

    plan: Plan
    session: Session
    attempt: int
    rank: int
    secret: bytes
    programs: Path
    link: LinkState
    tensors: str | None = None

    @property
    def name(self) -> str:
        """What the ranks call the attempt when they shake hands."""
        return f"{self.plan.run}/{self.session.id}.{self.attempt}"

    @property
    def hosts(self) -> list[Host]:
        """The hosts of the session by rank, with the ports of its lane."""
        return hosts_of(self.plan, self.session)

    def endpoint(self, agreement: Agreement) -> Endpoint:
        """Where the rank is in the ring, and what it proves to its neighbours."""
        ring = tuple((host.data_address, host.data_port) for host in self.hosts)
        return Endpoint(
            rank=self.rank,
            own=ring[self.rank],
            next=ring[(self.rank + 1) % len(ring)],
            session=self.name,
            secret=self.secret,
            agreement=agreement,
            ring=ring,
        )


@contextlib.contextmanager
def joined(seat: Seat, writer: Writer, shares: Shares) -> Iterator[tuple[Context, list[Channel]]]:
    """Join a session; its links are closed when the block ends.

    Yields
    ------
    Context
        What this rank's part needs.
    list of Channel
        On rank 0 the channels to all other ranks in their order, elsewhere the one to rank 0.

    Raises
    ------
    StageError, PartitionError, WeightsError, TransportError, ControlError
        When a program or its tensors are missing or not the plan's, a port is in use, or another
        rank does not come, does not agree or does not know the secret.
    """
    plan, session = seat.plan, seat.session
    with shares.kind("startup"):
        models = load(plan, session, seat.programs, seat.tensors)
        weights_sha256 = checksum_of(models.values())
        references: dict[tuple[int, str], list[tuple[torch.Tensor, ...]]] = {}
        images = None
        if seat.rank == 0:
            images = load_images(plan, session, seat.programs)
            part = not all(model.complete for model in models.values())
            references = _references(plan, session, seat.programs, part)
    numerics, agreement = facts.numerics(), agreed(plan, session, weights_sha256)
    with contextlib.ExitStack() as stack:
        with shares.kind("rendezvous"):
            path, transport = _connected(session.backend, seat.endpoint(agreement), stack)
            others = stack.enter_context(_meeting(seat, agreement))
            channels = _channels(seat, agreement, numerics, stack)
        writer.write(
            Ready(
                transport=transport.facts(),
                numerics={str(c.hello["rank"]): c.hello["numerics"] for c in channels},
                weights_sha256=weights_sha256,
            )
        )
        context = Context(
            plan=plan,
            session=session,
            rank=seat.rank,
            host=seat.hosts[seat.rank],
            models=models,
            numerics=numerics,
            transport=transport,
            path=path,
            link=seat.link,
            writer=writer,
            shares=shares,
            references=references,
            images=images,
            programs=seat.programs,
            others=others,
        )
        yield context, channels


def agreed(plan: Plan, session: Session, weights_sha256: str) -> Agreement:
    """What all ranks of a session must have in common, for a rank that loaded these weights."""
    points = [plan.point(point) for point in session.points]
    cuts = [
        (point.id, point.split, [list(map(asdict, hop)) for hop in point.hops]) for point in points
    ]
    return Agreement(
        schema=str(SCHEMA),
        plan=identity.digest(plan),
        cuts=hashlib.sha256(json.dumps(cuts).encode()).hexdigest(),
        torch=torch.__version__.partition("+")[0],
        weights=weights_sha256,
    )


def checksum_of(models: Iterable[Partitioned]) -> str:
    """The checksum of all tensors of a model, by the checksums that its programs name.

    :func:`load` compared the tensors that this host has with these.
    """
    checksums: dict[str, str] = {}
    for model in models:
        checksums |= {name: held.sha256 for name, held in model.program.tensors.items()}
    return weights.weights_sha256(checksums)


def load(
    plan: Plan, session: Session, folder: Path, tensors: str | None = None
) -> dict[tuple[int, str], Partitioned]:
    """Load the session's programs and their tensors; by batch and dtype.

    Parameters
    ----------
    tensors
        Name of the file of the tensors of this host's stages; None for that of all.

    Raises
    ------
    StageError
        When a file is missing.
    PartitionError, WeightsError
        When it is not the one that was planned, see :mod:`paretopipe_worker.model.loading`.
    """
    tables = plan.tables_of(session.model)
    programs = {}
    for table in tables:
        file = _here(folder / plans.program_name(table))
        programs[table.batch, table.dtype] = loading.load_program(file, table.graph_sha256)
    whole = plans.weights_name(tables[0])
    file = _here(folder / (tensors or whole))
    part = file.name != whole
    found = loading.load_tensors(file, list(programs.values()), part=part)
    return {key: loading.partitioned(program, found) for key, program in programs.items()}


def _references(
    plan: Plan, session: Session, folder: Path, part: bool
) -> dict[tuple[int, str], list[tuple[torch.Tensor, ...]]]:
    """Load what the model returns in float32, as the controller found it, by batch and dtype.

    Parameters
    ----------
    part
        Whether this host lacks tensors, so that it cannot find that out in float32 either.
    """
    return {
        (table.batch, table.dtype): loading.load_references(
            _here(folder / plans.references_name(table))
        )
        for table in plan.tables_of(session.model)
        if part or table.dtype != FLOAT32
    }


def _here(path: Path) -> Path:
    """A file that was sent to this host."""
    if not path.is_file():
        raise StageError(f"{path}: is not on this host; run the sweep again")
    return path


def load_images(plan: Plan, session: Session, folder: Path) -> torch.Tensor | None:
    """Load the images that the session's source sends; None where inputs are drawn.

    Raises
    ------
    WeightsError
        When their file is missing, or has not the planned ones.
    """
    first, *_ = plan.tables_of(session.model)
    file = plans.images_file(first, folder)
    return inputs.load_images(file, first.images_sha256) if file else None


def _connected(
    backend: str, endpoint: Endpoint, stack: contextlib.ExitStack
) -> tuple[Transport, Transport]:
    """Connect for measuring the path and for the items; `stack` closes both."""
    # Whatever the backend, the path is measured over the worker's own connections: a certificate of
    # the link must not contain what a library adds to each message.
    path = connect(PATH_BACKEND, endpoint, deadline_s=RENDEZVOUS_S)
    stack.callback(path.close)
    if backend == PATH_BACKEND:
        return path, path
    apart = replace(endpoint, session=f"{endpoint.session} {backend}")
    transport = connect(backend, apart, deadline_s=RENDEZVOUS_S)
    stack.callback(transport.close)
    return path, transport


@contextlib.contextmanager
def _meeting(seat: Seat, agreement: Agreement) -> Iterator[Lane]:
    """Hold the meeting of all sources, or attend it, where this rank has to."""
    session, rank = seat.session, seat.rank
    if session.sources == 1 or (rank > 0 and (session.lane, rank) != (0, len(seat.hosts) - 1)):
        yield Lane()
        return
    names, patience = lane_names(seat.plan, session), Patience(RENDEZVOUS_S)
    sink = seat.plan.host(session.placement[-1])
    there = sink.data_address, sink.control_port
    # The points of the lanes have different ids.
    own = Identity(
        "meeting",
        session.lane if rank == 0 else session.sources,
        f"{seat.plan.run}/{session.group}.{seat.attempt}",
        replace(agreement, cuts=""),
        seat.secret,
    )
    if rank > 0:
        with meeting.held(there, own, names, patience):
            yield Lane()
        return
    lane = Lane(None, session.lane, names, meeting.wait_s(seat.plan, session))
    with meeting.attending(there, seat.hosts[0].data_address, own, lane, patience) as found:
        yield found


def _channels(
    seat: Seat, agreement: Agreement, numerics: str, stack: contextlib.ExitStack
) -> list[Channel]:
    """Open the control channels of this rank; `stack` closes them."""
    hosts, rank = seat.hosts, seat.rank
    own = Identity("control", rank, seat.name, agreement, seat.secret)
    hello = {"rank": rank, "host": hosts[rank].name, "numerics": numerics}
    address = hosts[0].data_address, hosts[0].control_port
    if rank == 0:
        channels = control.lead(address, own, hello, len(hosts), RENDEZVOUS_S)
    else:
        source = hosts[rank].data_address
        channels = [control.follow(address, source, own, hello, RENDEZVOUS_S)]
    for channel in channels:
        stack.callback(channel.close)
    return channels

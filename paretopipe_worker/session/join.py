"""Bring one rank into its session: load the model, join the ring, find rank 0, agree."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from paretopipe_worker.host import facts
from paretopipe_worker.link.state import LinkState
from paretopipe_worker.model import loading
from paretopipe_worker.model.loading import Loaded
from paretopipe_worker.plan import plan as plans
from paretopipe_worker.plan.fleet import Host
from paretopipe_worker.plan.plan import Plan, Session
from paretopipe_worker.records.files import Writer
from paretopipe_worker.records.lines import SCHEMA, Ready
from paretopipe_worker.session import control
from paretopipe_worker.session.context import Context, Shares
from paretopipe_worker.session.control import Channel
from paretopipe_worker.transport.agreement import Agreement
from paretopipe_worker.transport.api import Endpoint, Transport, connect
from paretopipe_worker.transport.handshake import Identity

PATH_BACKEND = "tcp"
"""Backend over which every session measures its path."""

RENDEZVOUS_S = 120.0
"""How long a stage waits for the others: they may still be loading a large model."""


class StageError(RuntimeError):
    """A stage cannot take part in the session: what is missing or does not agree."""


@contextlib.contextmanager
def joined(
    plan: Plan,
    session: Session,
    attempt: int,
    rank: int,
    secret: bytes,
    weights: Path,
    link: LinkState,
    writer: Writer,
    shares: Shares,
) -> Iterator[tuple[Context, list[Channel]]]:
    """Join a session; its links are closed when the block ends.

    Parameters
    ----------
    secret
        What all ranks of the session know and nobody else does.
    weights
        Folder of the weights files, named by their checksum.
    link
        The link as it was applied to this host.

    Yields
    ------
    Context
        What this rank's part needs.
    list of Channel
        To every other rank on rank 0, else to rank 0.

    Raises
    ------
    StageError, ModelError, WeightsError, TransportError, ControlError
        When the weights are missing or not the plan's, the model does not fit them, a port is in
        use, another rank does not come, does not agree or does not know the secret.
    """
    hosts = [plan.host(name) for name in session.placement]
    with shares.kind("startup"):
        loaded = load(plan, session, weights)
    numerics, name = facts.numerics(), f"{plan.run}/{session.id}.{attempt}"
    agreement = agreed(plan, session, loaded.weights_sha256)
    following = hosts[(rank + 1) % len(hosts)]
    endpoint = Endpoint(
        rank=rank,
        own=(hosts[rank].data_address, hosts[rank].data_port),
        next=(following.data_address, following.data_port),
        session=name,
        secret=secret,
        agreement=agreement,
        ring=tuple((host.data_address, host.data_port) for host in hosts),
    )
    with contextlib.ExitStack() as stack:
        with shares.kind("rendezvous"):
            path, transport = _connected(session.backend, endpoint, stack)
            channels = _channels(
                hosts,
                Identity("control", rank, name, agreement, secret),
                {"rank": rank, "host": hosts[rank].name, "numerics": numerics},
            )
            for channel in channels:
                stack.callback(channel.close)
        writer.write(
            Ready(
                transport=transport.facts(),
                numerics={str(c.hello["rank"]): c.hello["numerics"] for c in channels},
                weights_sha256=loaded.weights_sha256,
            )
        )
        context = Context(
            plan=plan,
            session=session,
            rank=rank,
            host=hosts[rank],
            model=loaded.model,
            captures={(i.shape[0], i.dtype): each for i, each in loaded.captures.items()},
            numerics=numerics,
            transport=transport,
            path=path,
            link=link,
            writer=writer,
            shares=shares,
        )
        yield context, channels


def agreed(plan: Plan, session: Session, weights_sha256: str) -> Agreement:
    """What every rank of a session must have as this one has it, which loaded these weights."""
    points = [plan.point(point) for point in session.points]
    cuts = [
        (point.id, point.split, [list(map(asdict, hop)) for hop in point.hops]) for point in points
    ]
    return Agreement(
        schema=str(SCHEMA),
        plan=plans.digest(plan),
        cuts=hashlib.sha256(json.dumps(cuts).encode()).hexdigest(),
        torch=torch.__version__.partition("+")[0],
        weights=weights_sha256,
    )


def load(plan: Plan, session: Session, weights: Path) -> Loaded:
    """Load the session's model, and hold what was loaded against the plan.

    Raises
    ------
    StageError
        When the weights are missing, or the model that was built holds others or computes
        something else than the one that was planned.
    ModelError, WeightsError, PartitionError
        As :func:`paretopipe_worker.model.loading.load`.
    """
    tables, seed = plan.tables_of(session.model), plan.experiment.seed
    planned = tables[0].weights_sha256
    file = _file(weights, planned)
    loaded = loading.load(session.model, file, [table.input for table in tables], seed=seed)
    if loaded.weights_sha256 != planned:
        raise StageError(
            f"{file}: what was loaded for '{session.model}' has the checksum "
            f"{loaded.weights_sha256}, the plan's weights have {planned}; delete the file and run "
            "the sweep again"
        )
    for table in tables:
        if (captured := loaded.captures[table.input].sha256()) != table.graph_sha256:
            raise StageError(
                f"'{session.model}' at batch {table.batch} is another model here than on the "
                f"controller: its graph has the checksum {captured}, the plan's "
                f"{table.graph_sha256}; its code and what it reads must be the same on all hosts, "
                "and numbers that a factory draws at random must not depend on the host"
            )
    return loaded


def _connected(
    backend: str, endpoint: Endpoint, stack: contextlib.ExitStack
) -> tuple[Transport, Transport]:
    """Connect for measuring the path and for the items; `stack` closes both."""
    # Whatever the backend, the path is measured over the worker's own connections: what a library
    # adds to each message is not the link's.
    path = connect(PATH_BACKEND, endpoint, deadline_s=RENDEZVOUS_S)
    stack.callback(path.close)
    if backend == PATH_BACKEND:
        return path, path
    apart = replace(endpoint, session=f"{endpoint.session} {backend}")
    transport = connect(backend, apart, deadline_s=RENDEZVOUS_S)
    stack.callback(transport.close)
    return path, transport


def _channels(hosts: list[Host], own: Identity, hello: dict[str, Any]) -> list[Channel]:
    """Open the control channels of this rank."""
    address = hosts[0].data_address, hosts[0].control_port
    if own.rank == 0:
        return control.lead(address, own, hello, len(hosts), RENDEZVOUS_S)
    source = hosts[own.rank].data_address
    return [control.follow(address, source, own, hello, RENDEZVOUS_S)]


def _file(directory: Path, sha256: str) -> Path:
    """The file of the weights that the plan names."""
    path = directory / plans.weights_name(sha256)
    if not path.is_file():
        raise StageError(f"{path}: the plan's weights are not on this host; run the sweep again")
    return path

"""Which files each host needs: programs, the tensors of its own stages, references."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from paretopipe_worker.cuts import FLOAT32
from paretopipe_worker.plan import executing
from paretopipe_worker.plan import plan as plans
from paretopipe_worker.plan.plan import Plan, Session
from paretopipe_worker.plan.refusals import Refusal

Share: TypeAlias = Sequence[tuple[str, str, str]]
"""Stages of a model: a program's file, and the names of the cuts before and behind the stage."""

Pack: TypeAlias = Callable[[str, Share], str]
"""Makes a file of the tensors that stages of a model need, from that of all its tensors; returns
its name."""


class Sending:
    """What each host is to be sent, by the plan without the points that are refused.

    Parameters
    ----------
    refusals
        Points that are not measured, by id.
    pack
        Called for each host that needs only a part of a model's tensors; None gives every host all.
    """

    def __init__(
        self, plan: Plan, refusals: Mapping[str, Refusal] | None = None, pack: Pack | None = None
    ) -> None:
        self.refusals = refusals or {}
        self._plan, self._pack = plan, pack
        self._tensors: dict[tuple[str, str], str] = {}
        self._files: dict[str, set[str]] = {host.name: set() for host in plan.hosts}

    @property
    def files(self) -> dict[str, list[str]]:
        """Names of all files that each host needs, by host, for the sessions that were added."""
        return {host: sorted(names) for host, names in self._files.items()}

    def add(self, session: Session) -> dict[str, str]:
        """Add a session; names of the files of tensors, by host."""
        tables = self._plan.tables_of(session.model)
        tensors = {host: self._of(session.model, host) for host in session.placement}
        for host, name in tensors.items():
            self._files[host] |= {name, *map(plans.program_name, tables)}
        source, *_ = session.placement
        # Where the source sends images, it is told which.
        images = [plans.images_file(table, Path()) for table in tables]
        self._files[source] |= {file.name for file in images if file}
        self._add_stages(session)
        # Where it cannot run the whole model in float32, it is told what that returns.
        part = tensors[source] != self._whole(session.model)
        told = [table for table in tables if part or table.dtype != FLOAT32]
        self._files[source] |= set(map(plans.references_name, told))
        return tensors

    def _add_stages(self, session: Session) -> None:
        """Add the stages that its hosts execute from files."""
        for point in map(self._plan.point, session.points):
            if point.id in self.refusals:
                continue
            table = self._plan.table(point.model, point.batch, point.dtype)
            for rank in executing.in_files(point):
                name = plans.stage_name(table, *point.ends(rank))
                self._files[point.placement[rank]].add(name)

    def _of(self, model: str, host: str) -> str:
        """Name of the file with a host's tensors of a model."""
        key = (model, host)
        if key not in self._tensors:
            whole = self._whole(model)
            share = share_of(self._plan, model, host, self.refusals) if self._pack else None
            self._tensors[key] = (
                whole if self._pack is None or share is None else self._pack(whole, share)
            )
        return self._tensors[key]

    def _whole(self, model: str) -> str:
        """Name of the file with all tensors of a model."""
        return plans.weights_name(self._plan.tables_of(model)[0])


def share_of(plan: Plan, model: str, host: str, refused: Collection[str]) -> Share | None:
    """List the stages of a model for which a plan has a host need tensors.

    Those that it executes from files need none, but on the source, which first holds the stages of
    a split against the whole program.

    Returns
    -------
    None where these stages hold all tensors between them, or the plan does not tell what they hold.
    """
    points = [point for point in plan.points_on(model, host) if point.id not in refused]
    share: dict[tuple[str, str, str], None] = {}
    whole = True
    for table in plan.tables_of(model):
        if table.footprint is None:
            return None
        parts: set[int] = set()
        for point in points:
            rank = point.placement.index(host)
            if (point.batch, point.dtype) != (table.batch, table.dtype):
                continue
            if rank < len(point.hops) and (rank == 0 or rank not in executing.in_files(point)):
                stage = table.parts(point.split, rank)
                parts |= set(stage)
                order = table.order
                if stage:
                    ends = (order[stage.start], order[stage.stop])
                    share[plans.program_name(table), *ends] = None
        whole = whole and table.footprint.all_held(parts)
    return None if whole else tuple(share)

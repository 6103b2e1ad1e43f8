"""Check that a pipeline's outputs are those of the whole model, as torch computes it in float32."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from paretopipe_worker.execution.runtimes import is_exact
from paretopipe_worker.model.partition import largest_error
from paretopipe_worker.plan.fleet import Host
from paretopipe_worker.plan.plan import Point

TOLERANCE = 1e-4
"""Largest relative error allowed of an output that is computed in float32, but in another way: by
hosts whose processors differ, or by a runtime that adds in another order."""

EXACT_DTYPE = "float32"
"""The dtype in which the model's own outputs are computed."""


class PointFailed(Exception):
    """A point cannot be measured; the session goes on with the next one."""


def allowed(point: Point, hosts: Sequence[Host], *, alike: bool) -> float:
    """Say by how much a point's outputs may differ from what the whole model returns.

    Parameters
    ----------
    hosts
        Those of its session, by rank.
    alike
        Whether torch computes the same bits on all of them as where the references come from.

    Returns
    -------
    The largest relative error: 0 where they must be equal, infinite where numbers are rounded on
    purpose, so that only finite values can be asked for.
    """
    if point.dtype != EXACT_DTYPE:
        return math.inf
    exact = all(
        is_exact(point.runtime(rank), host.device)
        for rank, host in enumerate(hosts)
        if len(set(point.ends(rank))) > 1
    )
    return 0.0 if exact and (alike or not point.crosses) else TOLERANCE


@dataclass
class Check:
    """How the pipeline's outputs compare with the whole model's, the worst of all items.

    `allowed` is the largest relative error that they may have, see :func:`allowed`.
    """

    allowed: float
    output: Literal["exact", "close", "unchecked"] = "unchecked"
    error: float | None = None

    def add(self, outputs: tuple[torch.Tensor, ...], references: tuple[torch.Tensor, ...]) -> None:
        """Compare one item's output with the reference."""
        error = largest_error(outputs, references)
        if error > 0:
            self.output, self.error = "close", max(error, self.error or 0.0)
        elif self.output == "unchecked":
            self.output = "exact"

    def verdict(self) -> None:
        """Refuse outputs that differ by more than is allowed.

        Raises
        ------
        PointFailed
            When they do; the text says by how much.
        """
        if self.error is None:
            return
        if not math.isfinite(self.error):
            raise PointFailed(
                "the pipeline's output has values that are not finite, or another shape than the "
                "model's"
            )
        if self.allowed == 0:
            raise PointFailed(
                f"the pipeline's output differs from the model's by {self.error:.2g} of its "
                "largest value; where all hosts compute alike they must be equal"
            )
        if self.error > self.allowed:
            raise PointFailed(
                f"the pipeline's output differs from the model's by {self.error:.2g} of its "
                f"largest value; allowed: {self.allowed:g}"
            )

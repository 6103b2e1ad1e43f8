"""Check that a pipeline's outputs equal those of the whole model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch

from paretopipe_worker.model.partition import largest_error

TOLERANCE = 1e-4
"""Largest relative error allowed of an output where the hosts' processors differ, and no numbers
are rounded on purpose."""


class PointFailed(Exception):
    """A point cannot be measured; the session goes on with the next one."""


@dataclass
class Check:
    """How the pipeline's outputs compare with the whole model's, the worst of all items.

    Where numbers are `rounded` on purpose, the error is what is to be known: only numbers that are
    not finite are refused.
    """

    exact_wanted: bool
    rounded: bool = False
    output: Literal["exact", "close", "unchecked"] = "unchecked"
    error: float | None = None

    def add(self, outputs: tuple[torch.Tensor, ...], references: tuple[torch.Tensor, ...]) -> None:
        """Compare one item's output with the reference."""
        if self.rounded:
            outputs = tuple(
                each.to(other.dtype) for each, other in zip(outputs, references, strict=True)
            )
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
        if self.exact_wanted:
            raise PointFailed(
                f"the pipeline's output differs from the model's by {self.error:.2g} of its "
                "largest value; where all hosts compute alike they must be equal"
            )
        if self.rounded:
            if not math.isfinite(self.error):
                raise PointFailed(
                    "the pipeline's output has numbers that are not finite, where those of the "
                    "model in float32 are; allowed: any error, but finite numbers"
                )
        elif not self.error <= TOLERANCE:
            raise PointFailed(
                f"the pipeline's output differs from the model's by {self.error:.2g} of its "
                f"largest value; allowed: {TOLERANCE:g}"
            )

"""Whether the outputs that come back from a pipeline are the whole model's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from paretopipe_worker.model.partition import largest_error

TOLERANCE = 1e-4
"""Largest relative error of an output that came by way of hosts of different processors."""


class PointFailed(Exception):
    """A point that cannot be measured; the session goes on with the next."""


@dataclass
class Check:
    """How the pipeline's outputs compare with the whole model's, worst over all items."""

    exact_wanted: bool
    output: Literal["exact", "close", "unchecked"] = "unchecked"
    error: float | None = None

    def add(self, outputs: tuple[torch.Tensor, ...], references: tuple[torch.Tensor, ...]) -> None:
        """Hold one item's output against the reference."""
        error = largest_error(outputs, references)
        if error > 0:
            self.output, self.error = "close", max(error, self.error or 0.0)
        elif self.output == "unchecked":
            self.output = "exact"

    def verdict(self) -> None:
        """Refuse outputs that differ by more than they may.

        Raises
        ------
        PointFailed
            Saying by how much.
        """
        if self.error is None:
            return
        if self.exact_wanted:
            raise PointFailed(
                f"the pipeline's output differs from the model's by {self.error:.2g} of its "
                "largest value; between equal processors it must be equal"
            )
        if not self.error <= TOLERANCE:
            raise PointFailed(
                f"the pipeline's output differs from the model's by {self.error:.2g} of its "
                f"largest value; allowed: {TOLERANCE:g}"
            )

"""Models whose cost is known: stages that wait for a deadline without holding the GIL.

Named in specs as ``tests.synthetic:wait_5_ms`` and so on.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import fx, nn


@fx.wrap
def wait(tensor: torch.Tensor, seconds: float) -> torch.Tensor:
    """Return the tensor after a time in which the core is free for others."""
    time.sleep(seconds)
    return tensor


class Wait(nn.Module):
    """Wait, then widen or narrow a vector, at hardly any cost, to a given number of floats."""

    def __init__(self, seconds: float, inputs: int, outputs: int) -> None:
        super().__init__()
        self.seconds, self.outputs = seconds, outputs
        self.repeats = -(-outputs // inputs)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape (batch, inputs) to (batch, outputs)."""
        wide = wait(x, self.seconds).repeat(1, self.repeats)
        return wide[:, : self.outputs] * self.scale


FLOATS = (400_000, 100_000, 10_000)
"""What crosses the cuts `0`, `1` and `2`: 1.6 MB, 400 KB, 40 KB."""


def pipeline(seconds: float) -> nn.Module:
    """Wait, payloads that get smaller, wait: every cut leaves one wait on each side."""
    widths = (100, *FLOATS, 10)
    waits = (seconds, 0.0, 0.0, seconds)
    model = nn.Sequential(*(Wait(*part) for part in zip(waits, widths, widths[1:], strict=False)))
    model.input_shape = (100,)  # type: ignore[assignment]
    return model


def _factory(milliseconds: int) -> Callable[[], nn.Module]:
    return lambda: pipeline(milliseconds / 1e3)


wait_0_ms, wait_2_ms, wait_5_ms, wait_20_ms = map(_factory, (0, 2, 5, 20))

"""Models whose cost is known: most stages wait, without holding a core or the GIL.

Named in specs as ``tests.helpers.synthetic:wait_5_ms`` and so on. What they do beside computing is
done by operators of the namespace ``paretopipe_test``, so that programs hold it. A stage process
imports the package of that name, which is in the folder :data:`PACKAGES`.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeAlias

import torch
from torch import nn

from paretopipe_worker.session.probe import TRANSFER_BYTES

PACKAGES = Path(__file__).parent / "packages"
"""What has to be on the Python path of a stage process."""

_Function: TypeAlias = Callable[..., torch.Tensor]

_LIBRARY = torch.library.Library("paretopipe_test", "FRAGMENT")  # type: ignore[no-untyped-call]


def _operator(parameters: str) -> Callable[[_Function], _Function]:
    """Register a function as an operator that returns a copy of the tensor it is given."""

    # `torch.library.custom_op` would import the compiler, for seconds, into every stage process.
    def registered(function: _Function) -> _Function:
        name = f"{_LIBRARY.ns}::{function.__name__}"
        torch.library.define(name, f"({parameters}) -> Tensor", lib=_LIBRARY)
        torch.library.impl(name, "CPU", function, lib=_LIBRARY)
        torch.library.register_fake(name, lambda tensor, *_: torch.empty_like(tensor), lib=_LIBRARY)
        found: _Function = getattr(torch.ops.paretopipe_test, function.__name__).default
        return found

    return registered


@_operator("Tensor tensor, float seconds")
def wait(tensor: torch.Tensor, seconds: float) -> torch.Tensor:
    """Return a copy after a time in which the core is free for others."""
    time.sleep(seconds)
    return tensor.clone()


class Wait(nn.Module):
    """Wait, then widen or narrow a vector to a given number of floats, at hardly any cost."""

    def __init__(self, seconds: float, inputs: int, outputs: int) -> None:
        super().__init__()
        self.seconds, self.outputs = seconds, outputs
        self.repeats = -(-outputs // inputs)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape (batch, inputs) to (batch, outputs)."""
        waited = wait(x, self.seconds) if self.seconds else x
        wide = waited.repeat(1, self.repeats)
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


def _chain(*parts: nn.Module) -> nn.Module:
    """A model of these parts in sequence, the first of which takes 100 floats."""
    model = nn.Sequential(*parts)
    model.input_shape = (100,)  # type: ignore[assignment]
    return model


PROBED = TRANSFER_BYTES[2] // 4
"""Floats in 128 KiB, a payload whose transfer a session's probe measures as well."""


def four_waits() -> nn.Module:
    """Four waits of 20 ms with 128 KiB between them: cut `0` is back-heavy, `2` front-heavy."""
    widths = (100, PROBED, PROBED, PROBED, 10)
    return _chain(*(Wait(0.02, *pair) for pair in itertools.pairwise(widths)))


def two_waits(milliseconds: int) -> nn.Module:
    """Two equal waits with 4 KB between them."""
    return _chain(Wait(milliseconds / 1e3, 100, 1000), Wait(milliseconds / 1e3, 1000, 10))


two_of_2_ms, two_of_5_ms, two_of_10_ms = (partial(two_waits, wait) for wait in (2, 5, 10))


@_operator("Tensor tensor")
def stall(tensor: torch.Tensor) -> torch.Tensor:
    """Wait 4 ms, but 300 ms every 100th time in a process."""
    time.sleep(0.3 if next(_calls) % 100 == 99 else 0.004)
    return tensor.clone()


_calls = itertools.count()


class Stall(nn.Module):
    """A stage that now and then is held up, as by a page fault or a lost packet."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any shape, passed on."""
        return stall(x) * 1.0


def stalling() -> nn.Module:
    """A short wait, then a stage that stalls now and then."""
    return _chain(Wait(0.001, 100, 1000), Stall())


@_operator("Tensor tensor")
def burn(tensor: torch.Tensor) -> torch.Tensor:
    """Use the core for 10 ms of this thread's time."""
    end_ns = time.thread_time_ns() + 10_000_000
    while time.thread_time_ns() < end_ns:
        pass
    return tensor.clone()


class Burn(nn.Module):
    """A stage that computes."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any shape, passed on."""
        return burn(x) * 1.0


def burning() -> nn.Module:
    """Two stages that compute 10 ms each."""
    return _chain(Burn(), Burn())


def wait_and_burn() -> nn.Module:
    """Wait 5 ms, then compute 10 ms."""
    return _chain(Wait(0.005, 100, 1000), Burn())


@_operator("Tensor tensor")
def exhaust(tensor: torch.Tensor) -> torch.Tensor:
    """Fail for want of memory when the stage on host `edge` runs it for the first time."""
    if torch.is_inference_mode_enabled() and "edge" in sys.argv and next(_runs) == 0:
        raise RuntimeError(
            "can't allocate memory: you tried to allocate 9 bytes.\nIn torch's words"
        )
    return tensor.clone()


_runs = itertools.count()


class Exhaust(nn.Module):
    """A stage that does not find the memory it needs, once."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any shape, passed on."""
        return exhaust(x) * 1.0


def exhausting() -> nn.Module:
    """Two such stages."""
    return _chain(Exhaust(), Exhaust())


BREAKS_AT = 150
"""Number of a call, counted in each process."""


@_operator("Tensor tensor")
def break_once(tensor: torch.Tensor) -> torch.Tensor:
    """Fail in the middle of the work of a stage process."""
    if "stage" in sys.argv and next(_breaking) == BREAKS_AT:
        raise RuntimeError("out of order for once")
    return tensor.clone()


_breaking = itertools.count()


class BreakOnce(nn.Module):
    """A stage that fails once, after many calls."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any shape, passed on."""
        return break_once(x) * 1.0


def breaking() -> nn.Module:
    """A stage that fails once, between two that are well."""
    return _chain(Wait(0.0, 100, 1000), BreakOnce(), Wait(0.0, 1000, 10))


class Times(nn.Module):
    """Multiplication by a constant."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any shape."""
        return x * self.factor


def huge() -> nn.Module:
    """Values behind cut `1` that 16 bits cannot hold, between others."""
    return _chain(Wait(0.0, 100, 1000), Times(1e6), Times(1e-6), Wait(0.0, 1000, 10))


wait_0_ms, wait_2_ms, wait_5_ms, wait_20_ms = map(_factory, (0, 2, 5, 20))

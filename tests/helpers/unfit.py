"""Models that a sweep cannot measure, named after what is wrong with them, and some that it can.

Specs name them ``tests.helpers.unfit:dropout`` and so on. `tests/model/test_trial.py` has the error
that a sweep reports for each.
"""

from __future__ import annotations

import functools
import random
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

Tensor = torch.Tensor
LONG = "first line\nsecond line" + 5000 * "x"


class Network(nn.Module):
    """Two layers with a function between them."""

    input_shape: Any = (4,)

    def __init__(self, between: Callable[[Tensor], Tensor] = torch.relu) -> None:
        super().__init__()
        self.first, self.last, self.between = nn.Linear(4, 8), nn.Linear(8, 4), between

    def forward(self, x: Tensor) -> Any:
        """Shape (batch, 4) to (batch, 4)."""
        return self.last(self.between(self.first(x)))


def between(function: Callable[[Tensor], Any]) -> Callable[[], nn.Module]:
    """A factory of a network with this function between its layers."""
    return lambda: Network(function)


class Ending(Network):
    """A network with a function behind it."""

    def __init__(self, end: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.end = end

    def forward(self, x: Tensor) -> Any:
        """Return what the function does."""
        return self.end(super().forward(x))


def with_shape(shape: object, *parts: nn.Module) -> nn.Module:
    """A chain of modules that says what it takes."""
    chain = nn.Sequential(*parts)
    chain.input_shape = shape  # type: ignore[assignment]
    return chain


# What a sweep can measure.

works = Network


def talks() -> nn.Module:
    """Print and warn."""
    print("a model is being built")
    warnings.warn("that is old", stacklevel=1)
    return Network()


class Forgetful(Network):
    """Override `train` as many do."""

    def train(self, mode: bool = True) -> None:  # type: ignore[override]
        """Return nothing."""
        super().train(mode)


def hooked() -> nn.Module:
    """Double the output in a hook of the model itself."""
    model = Network()
    model.register_forward_hook(lambda module, given, output: output * 2)
    return model


class Wrapped(Network):
    """Do more when it is called than in its `forward`."""

    def __call__(self, x: Tensor) -> Any:
        """Double the output."""
        return super().__call__(x) * 2


dictionary = functools.partial(Ending, lambda x: {"logits": x, "more": (x + 1, [x * 2, None])})


# What it returns is not decided by its input alone.

dropout = between(lambda x: functional.dropout(x, 0.5, training=True))
noise = between(lambda x: x + torch.rand_like(x))
chance = between(lambda x: x * random.random())
numpy_chance = between(lambda x: x * float(np.random.rand()))


class Stubborn(nn.Dropout):
    """Stay in training mode."""

    def train(self, mode: bool = True) -> Stubborn:
        """Ignore the mode."""
        return super().train(True)


def stays_in_training() -> nn.Module:
    """Drop values whatever mode it is in."""
    return with_shape((4,), nn.Linear(4, 8), Stubborn(), nn.Linear(8, 4))


class Counting(Network):
    """Count its calls in a plain attribute."""

    def forward(self, x: Tensor) -> Tensor:
        """Multiply by their number."""
        self.calls = getattr(self, "calls", 0) + 1
        return super().forward(x) * self.calls  # type: ignore[no-any-return]


class Remembering(Network):
    """Sum up what it has seen in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Add the sum."""
        return super().forward(x) + self.seen.add_(x.abs().max())  # type: ignore[no-any-return, operator]


# It is no list of operations on tensors whose shapes are known.


class Autocast(Network):
    """Compute in half the precision."""

    def forward(self, x: Tensor) -> Any:
        """Under a context."""
        with torch.autocast("cpu", torch.bfloat16):
            return super().forward(x)


class Exporting(Network):
    """Compute something else when it is captured."""

    def forward(self, x: Tensor) -> Any:
        """Double what is between the layers, or do not."""
        y = self.between(self.first(x))
        return self.last(y * 2 if torch.compiler.is_exporting() else y)


def exports_otherwise() -> nn.Module:
    """Have it inside."""
    return with_shape((4,), nn.Linear(4, 4), nn.Sequential(nn.ReLU(), Exporting()))


class Branching(nn.Module):
    """Decide by a value."""

    def forward(self, x: Tensor) -> Tensor:
        """Shape (batch, 4) to the same."""
        if x.sum() > 0:
            return x + 1
        return x - 1


def branches() -> nn.Module:
    """Have it inside."""
    return with_shape((4,), nn.Linear(4, 4), nn.Sequential(nn.ReLU(), Branching()))


reads_a_value = between(lambda x: x / (1 + x.abs().max().item()))
selects = between(lambda x: x + x[x > 0].sum())
slices = between(lambda x: x[:, : int(x[0].argmax()) + 1].sum(1, keepdim=True).expand(-1, 8))
conditional = between(lambda x: torch.cond(x.sum() > 0, torch.sin, torch.cos, (x,)))
mapped = between(lambda x: torch.vmap(torch.sin)(x))
leaves_torch = between(lambda x: x + torch.from_numpy(x.numpy() * 2))
seeded = between(lambda x: x + torch.rand(8, generator=torch.Generator().manual_seed(3)))


# Its code raises.


def factory_raises() -> nn.Module:
    """Raise in the factory."""
    raise RuntimeError(LONG)


def factory_exits() -> nn.Module:
    """End the process, as if all were well."""
    raise SystemExit(0)


def factory_wants_more(classes: int) -> nn.Module:
    """Take an argument."""
    return Network()


def _fail(x: Tensor) -> Tensor:
    raise KeyError(LONG)


def _fail_silently(x: Tensor) -> Tensor:
    raise ValueError


forward_raises, forward_says_nothing = between(_fail), between(_fail_silently)


class Normed(Network):
    """Raise when BatchNorm is calibrated."""

    def __init__(self) -> None:
        super().__init__(_fail)
        self.norm = nn.BatchNorm1d(4)


class TwoInputs(Network):
    """Take two tensors."""

    def forward(self, x: Tensor, y: Tensor) -> Any:  # type: ignore[override]
        """Add them."""
        return super().forward(x + y)


# It is not made of tensors of the experiment's kind.


def half() -> nn.Module:
    """Have parameters of float16."""
    return Network().half()


def double() -> nn.Module:
    """Have parameters of float64, and BatchNorm."""
    return with_shape((4,), nn.Linear(4, 4), nn.BatchNorm1d(4)).double()


def scripted() -> nn.Module:
    """Be TorchScript."""
    made: nn.Module = torch.jit.script(with_shape((4,), nn.Linear(4, 4)))
    return made


def compiled() -> nn.Module:
    """Be compiled."""
    made: Any = torch.compile(Network())
    return made  # type: ignore[no-any-return]


def quantised() -> nn.Module:
    """Have packed weights."""
    quantize: Any = torch.ao.quantization.quantize_dynamic
    made: nn.Module = quantize(Network(), {nn.Linear})
    return made


def lazy() -> nn.Module:
    """Have parameters whose shape is not known yet."""
    return with_shape((4,), nn.LazyLinear(4))


def meta() -> nn.Module:
    """Have parameters without values."""
    return with_shape((4,), nn.Linear(4, 4, device="meta"))


# What it takes or returns makes no sense.

no_shape = functools.partial(with_shape, 4, nn.Linear(4, 4))
empty_shape = functools.partial(with_shape, (0, 4), nn.Linear(4, 4))
other_shape = functools.partial(with_shape, (5,), nn.Linear(4, 4))
embedding = functools.partial(with_shape, (4,), nn.Embedding(4, 4))
not_a_number = between(lambda x: x / 0 - x / 0)
mixture = functools.partial(Ending, lambda x: {"logits": x, "loss": 3.5})
complex_output = functools.partial(Ending, lambda x: torch.complex(x, x))
sparse_output = functools.partial(Ending, lambda x: x.to_sparse())


def nothing() -> nn.Module:
    """Have no operation."""
    model = nn.Identity()
    model.input_shape = (4,)  # type: ignore[assignment]
    return model


solving = between(lambda x: x @ torch.linalg.inv(torch.eye(8, dtype=x.dtype)))
"""It has no kernels for numbers of 16 bits."""

large = between(lambda x: 1e5 * x * x)
"""Its values are beyond what float16 holds."""

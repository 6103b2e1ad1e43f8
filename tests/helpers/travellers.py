"""Models with tensors outside their state dict, or with tensors that differ from build to build.

Specs name them ``tests.helpers.travellers:Scattered`` and so on. All hosts must compute with the
tensors of the one model that was built on the controller.
"""

from __future__ import annotations

import itertools
import random

import torch
from torch import nn

_builds = itertools.count()

GLOBAL = torch.zeros(4)
"""Drawn anew with each model."""


def drawn(*shape: int) -> torch.Tensor:
    """Draw from a generator that differs from build to build, and from process to process."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(next(_builds)))


class Scattered(nn.Module):
    """Keeps random tensors in every place that there is."""

    input_shape = (4,)

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.linear.weight = nn.Parameter(drawn(4, 4))
        self.register_buffer("kept", drawn(4))
        self.register_buffer("left_out", drawn(4), persistent=False)
        self.plain = drawn(4)
        self.wide = drawn(1).expand(4)
        self.phases = torch.polar(torch.ones(4), drawn(4))
        self.listed = [drawn(4)]
        self.inner = nn.ReLU()
        self.inner.offset = drawn(4)
        GLOBAL.copy_(drawn(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape (batch, 4) to (batch, 4)."""
        x = self.linear(x) * self.kept + self.left_out
        x = self.inner(x * self.plain - self.wide) + self.inner.offset
        x = torch.sin(x) * self.listed[0] + GLOBAL + torch.view_as_real(self.phases)[:, 0]
        return torch.tanh(x) + torch.arange(4.0)


class Tied(nn.Module):
    """An autoencoder whose decoder is the encoder, read the other way."""

    input_shape = (6,)

    def __init__(self) -> None:
        super().__init__()
        self.enc, self.dec = nn.Linear(6, 3), nn.Linear(3, 6)
        self.dec.weight = nn.Parameter(self.enc.weight.t())
        self.first, self.rest = self.enc.bias.detach()[:1], self.enc.bias.detach()[1:]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape (batch, 6) to (batch, 6)."""
        y = torch.relu(self.enc(x)) + self.first
        # Such a view there is only where the weight lies in memory as the encoder's does.
        z: torch.Tensor = self.dec(y) + self.rest.sum() + self.dec.weight.t().view(-1)[:6]
        return z


class Remade(nn.Module):
    """Makes a table as it runs, and each time another."""

    input_shape = (4,)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape (batch, 4) to (batch, 4)."""
        return torch.relu(x) + drawn(4)


class Scaled(nn.Module):
    """Scales by a number that is drawn when it is built."""

    input_shape = (4,)

    def __init__(self) -> None:
        super().__init__()
        self.scale = random.random()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape (batch, 4) to (batch, 4)."""
        return torch.relu(x * self.scale) + 1


class Cached(nn.Module):
    """Makes a table when it first runs, and keeps it."""

    input_shape = (4, 3)

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.table: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape (batch, 4, 3) to (batch, 4, 3)."""
        if self.table is None:
            self.table = torch.arange(3.0).sin()
        return torch.relu(self.norm(x)) + self.table


class Tabled(nn.Module):
    """Computes tables from its tensors alone, and returns one of them."""

    input_shape = (4,)

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.kept = nn.Linear(4, 4), nn.Parameter(drawn(4))
        self.made = torch.arange(4.0).cos()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Shape (batch, 4) to the same, and two tables of shape (4,)."""
        table = (self.kept.exp() + self.made).tanh()
        return self.linear(x) * table, table, self.kept


class Numbered(nn.Module):
    """Makes a table whose length is the batch size."""

    input_shape = (4,)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape (batch, 4) to the same."""
        return torch.relu(x) * torch.tensor([1.5 + n for n in range(len(x))])[:, None]


class Packed(nn.Linear):
    """Keeps what is no tensor in its state, as quantised layers do."""

    def __init__(self) -> None:
        super().__init__(2, 2)

    def get_extra_state(self) -> dict[str, int]:
        """Bits of each weight."""
        return {"bits": 4}


class Strided(nn.Module):
    """Computes with channels last, writes over what it made, and hands its input on."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Shape (batch, 3, height, width) to a picture, the input and where it is positive."""
        x = x.contiguous(memory_format=torch.channels_last)
        y = torch.relu_(self.b(self.a(x) + torch.tensor([2.5])))
        y[:, 0] += 1
        return {"y": self.c(y) * (y > 0), "x": x, "mask": y > 0}

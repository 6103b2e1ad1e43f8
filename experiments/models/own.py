"""Networks of a person's own, as experiments/models.yml names them: hosts never see this file."""

from __future__ import annotations

import itertools

import torch
from torch import nn


class UNet(nn.Module):
    """A small U-Net: what its first blocks make is used again by its last."""

    input_shape = (3, 96, 96)

    def __init__(self, width: int = 8, depth: int = 3) -> None:
        super().__init__()
        sizes = [width << level for level in range(depth + 1)]
        self.down = nn.ModuleList([_twice(3, sizes[0])])
        self.down.extend(_twice(*pair) for pair in itertools.pairwise(sizes[:-1]))
        self.bottom = _twice(sizes[-2], sizes[-1])
        self.up = nn.ModuleList(_twice(3 * small, small) for small in reversed(sizes[:-1]))
        self.head = nn.Conv2d(sizes[0], 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape (batch, 3, height, width) to (batch, 2, height, width)."""
        skips = []
        for block in self.down:
            x = block(x)
            skips.append(x)
            x = nn.functional.max_pool2d(x, 2)
        x = self.bottom(x)
        for block in self.up:
            skip = skips.pop()
            x = nn.functional.interpolate(x, size=skip.shape[2:], mode="nearest")
            x = block(torch.cat([skip, x], 1))
        logits: torch.Tensor = self.head(x)
        return logits


def _twice(taken: int, given: int) -> nn.Sequential:
    """Two convolutions, each normalised and activated."""
    return nn.Sequential(
        nn.Conv2d(taken, given, 3, padding=1),
        nn.BatchNorm2d(given),
        nn.ReLU(inplace=True),
        nn.Conv2d(given, given, 3, padding=1),
        nn.BatchNorm2d(given),
        nn.ReLU(inplace=True),
    )


class Encoder(nn.Module):
    """A transformer's encoder over words, which says several things of a text."""

    def __init__(self, words: int = 1000, width: int = 64, layers: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width)
        self.layer = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 4 * width, batch_first=True) for _ in range(layers)
        )
        self.pool = nn.Linear(width, 3)

    def forward(self, words: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """Shapes (batch, length), whole numbers and a mask of ones, to logits and hidden states."""
        x = self.embedding(words) * mask.unsqueeze(-1)
        for layer in self.layer:
            x = layer(x)
        return {"logits": self.pool(x[:, 0]), "hidden": x}


class Regressor(nn.Module):
    """A transformer over measurements, which returns a tuple."""

    input_shape = (48, 32)

    def __init__(self, width: int = 32, layers: int = 3) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 4 * width, batch_first=True, norm_first=True)
            for _ in range(layers)
        )
        self.mean, self.spread = nn.Linear(width, 1), nn.Linear(width, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Shape (batch, length, width) to two of (batch, length, 1): a mean and its spread."""
        for layer in self.layers:
            x = layer(x)
        return self.mean(x), nn.functional.softplus(self.spread(x))

"""A language model and a detector in the style of libraries that tests do without, a wide net."""

from __future__ import annotations

import itertools

import torch
from torch import nn
from torch.nn import functional

Tensor = torch.Tensor


class Attention(nn.Module):
    """Self-attention of two heads."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.dense = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Shape (batch, tokens, width) to the same."""
        batch, tokens, width = hidden.shape
        query, key, value = (
            layer(hidden).view(batch, tokens, 2, width // 2).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        dense: Tensor = self.dense(mixed.transpose(1, 2).reshape(batch, tokens, width))
        return dense


class Layer(nn.Module):
    """A layer of the encoder."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention, self.norm = Attention(width), nn.LayerNorm(width)
        self.intermediate, self.output = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, hidden: Tensor, mask: Tensor) -> tuple[Tensor]:
        """Shape (batch, tokens, width) to the same, in a tuple."""
        hidden = self.norm(hidden + self.attention(hidden, mask))
        return (hidden + self.output(functional.gelu(self.intermediate(hidden))),)


class Encoder(nn.Module):
    """The layers, one after the other."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(width) for _ in range(layers))

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """All layers take the same mask."""
        for layer in self.layer:
            hidden = layer(hidden, mask)[0]
        return hidden


class Language(nn.Module):
    """A language model in the style of BERT: a mask goes past all layers, a dict comes out."""

    input_shape = (6, 8)

    def __init__(self, width: int = 8, layers: int = 3) -> None:
        super().__init__()
        self.embeddings = nn.Linear(width, width)
        self.encoder = Encoder(width, layers)
        self.pooler = nn.Linear(width, width)
        self.register_buffer("positions", torch.arange(6.0)[None, :, None] / 6, persistent=False)

    def forward(self, embedded: Tensor) -> dict[str, Tensor]:
        """Shape (batch, tokens, width) to the hidden state and what is pooled."""
        mask = (embedded.amax(-1) > 0)[:, None, None, :].float() * -10.0
        hidden = self.encoder(self.embeddings(embedded) + self.positions, mask)
        return {"hidden": hidden, "pooled": torch.tanh(self.pooler(hidden[:, 0]))}


class Conv(nn.Module):
    """Convolution, normalisation, activation."""

    def __init__(self, taken: int, given: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(taken, given, kernel, stride, kernel // 2, bias=False)
        self.bn, self.act = nn.BatchNorm2d(given), nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (batch, taken, ...) to (batch, given, ...)."""
        made: Tensor = self.act(self.bn(self.conv(x)))
        return made


class Bottleneck(nn.Module):
    """Two convolutions and a residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.cv1, self.cv2 = Conv(width, width, 3), Conv(width, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (batch, width, ...) to the same."""
        return x + self.cv2(self.cv1(x))  # type: ignore[no-any-return]


class C2f(nn.Module):
    """Bottlenecks whose results are all joined."""

    def __init__(self, width: int, units: int = 2) -> None:
        super().__init__()
        self.cv1, self.cv2 = Conv(width, width), Conv((2 + units) * width // 2, width)
        self.m = nn.ModuleList(Bottleneck(width // 2) for _ in range(units))

    def forward(self, x: Tensor) -> Tensor:
        """Shape (batch, width, ...) to the same."""
        parts = list(self.cv1(x).chunk(2, 1))
        for unit in self.m:
            parts.append(unit(parts[-1]))
        joined: Tensor = self.cv2(torch.cat(parts, 1))
        return joined


class Detect(nn.Module):
    """A head for two scales."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Conv2d(width, 5, 1) for _ in range(2))

    def forward(self, scales: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """All boxes, and the maps that they come from."""
        maps = [head(scale) for head, scale in zip(self.heads, scales, strict=True)]
        return torch.cat([each.flatten(2) for each in maps], 2).sigmoid(), maps


class Detector(nn.Module):
    """A detector in the style of YOLO: layers that take the results of others, by number."""

    input_shape = (3, 32, 32)

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.ModuleList(
            [
                *(Conv(3, 8, 3, 2), C2f(8), Conv(8, 8, 3, 2), C2f(8)),
                *(nn.Upsample(scale_factor=2), Conv(16, 8), Detect(8)),
            ]
        )

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Shape (batch, 3, height, width) to boxes and maps."""
        made: list[Tensor] = []
        for number, layer in enumerate(self.model):
            if number == 5:
                x = torch.cat([x, made[1]], 1)
            elif number == 6:
                return layer([x, made[3]])  # type: ignore[no-any-return]
            x = layer(x)
            made.append(x)
        raise AssertionError("the head is the last layer")


def wide() -> nn.Sequential:
    """Build a network that is nearly all tensors, in two large layers; it maps 16 numbers to 10."""
    sizes = (16, 300, 300, 300, 10)
    layers = [nn.Linear(*pair) for pair in itertools.pairwise(sizes)]
    return nn.Sequential(*(part for layer in layers for part in (layer, nn.Tanh())))


wide.input_shape = (16,)  # type: ignore[attr-defined]


class Odd(nn.Module):
    """Uses an operator that ONNX does not have."""

    input_shape = (4,)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape (batch, 4) to the same."""
        return torch.special.bessel_j0(torch.relu(x) + 1) + 1

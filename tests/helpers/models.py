"""Models that tests cut and load: classifiers, each built once in a process, and a user's own.

Specs name the latter ``tests.helpers.models:Sized`` and so on.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import nn

from paretopipe_worker.cuts import TensorSpec
from paretopipe_worker.model import zoo
from paretopipe_worker.model.capture import capture
from paretopipe_worker.model.flat import Stage
from paretopipe_worker.model.inputs import example_input
from paretopipe_worker.model.partition import (
    Partitioned,
    SplitCheck,
    check_split,
    find_cuts,
    whole,
)
from paretopipe_worker.model.sources import default_input
from paretopipe_worker.model.verifying import verified
from paretopipe_worker.model.weights import tensor_sha256, weights_sha256

PAPER = ("mobilenet_v2", "resnet18", "resnet50", "alexnet", "vgg16", "inception_v3")

NARROW = ("alexnet", "vgg16")
"""Models whose time goes into two hidden layers of 4096 units, which may be 64 instead."""

RESNET18_BLOCKS = [
    *("conv1", "bn1", "relu", "maxpool"),
    *(f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)),
    "avgpool",
]

# Sizes that are quick to compute at; what may be cut does not depend on the size.
_SMALLEST = {"alexnet": 63, "inception_v3": 75, "maxvit_t": 224, "vgg16": 32, "vit_b_32": 224}
_SMALL = 64
_HALF = {"inception_v3": 149, "vgg16": 64, "vit_b_32": 224}
_HALVED = 112

SEED = 3


def smallest(name: str) -> int:
    """Height and width of the smallest input that tests run a classifier on."""
    return _SMALLEST.get(name, _SMALL)


def half(name: str) -> int:
    """Height and width of an input of about half the default size, where the model takes it."""
    return _HALF.get(name, _HALVED)


@functools.cache
def classifier(name: str) -> nn.Module:
    """A classifier with random weights; a test that changes one puts it back."""
    return zoo.build(name, seed=SEED)


@functools.cache
def quick(name: str) -> nn.Module:
    """A classifier of the same graph that is quick to build and to run.

    It is calibrated at half the size, and the hidden layers of those in :data:`NARROW` are narrow.
    """
    factory = f"{__name__}:{name}_narrow" if name in NARROW else name
    return zoo.build(factory, seed=SEED, input_shape=(3, half(name), half(name)))


def _narrow(name: str) -> nn.Module:
    """A classifier of torchvision's whose hidden layers have 64 units."""
    made = narrowed(zoo.skeleton(name, seed=0))
    for part in made.modules():
        if isinstance(part, nn.Conv2d):
            part.to_empty(device="cpu").reset_parameters()
    return made


def narrowed(made: nn.Module) -> nn.Module:
    """Give hidden layers of 4096 units 64 instead."""
    wide = [path for path, part in made.named_modules() if isinstance(part, nn.Linear)]
    for path in wide:
        layer = made.get_submodule(path)
        assert isinstance(layer, nn.Linear)
        taken, given = (
            64 if width == 4096 else width for width in (layer.in_features, layer.out_features)
        )
        if (taken, given) != (layer.in_features, layer.out_features):
            made.set_submodule(path, nn.Linear(taken, given))
    return made


alexnet_narrow = functools.partial(_narrow, "alexnet")
vgg16_narrow = functools.partial(_narrow, "vgg16")


def two_inputs(name: str, batch: int = 1, size: int | None = None) -> list[torch.Tensor]:
    """Two inputs of a classifier, of its default size or a given one."""
    channels, *default = default_input(name)
    spec = TensorSpec((batch, channels, *([size, size] if size else default)), "float32")
    return [example_input(spec, seed=SEED, index=index) for index in (0, 1)]


@functools.cache
def captured_at(name: str, batch: int = 1, size: int | None = None) -> Partitioned:
    """A quick classifier as a program for such inputs, held against the model as a sweep does."""
    return programmed(quick(name), *two_inputs(name, batch, size))


def programmed(model: nn.Module, *inputs: torch.Tensor) -> Partitioned:
    """A model in eval mode as a program, held against it on each of the inputs."""
    captured = capture(model, [inputs[0]])
    found = verified(model, captured, [[tensor] for tensor in inputs]).captured
    return Partitioned(found.program, found.tensors)


def checked(
    stages: Sequence[Stage | None],
    inputs: Sequence[torch.Tensor],
    references: Sequence[tuple[torch.Tensor, ...]],
) -> SplitCheck:
    """Compare the stages of a model that takes one tensor with what it returns."""
    return check_split(stages, [(tensor,) for tensor in inputs], references)


def cut_names(of: Partitioned, granularity: str) -> list[str]:
    """Names of its cuts in order."""
    return [cut.name for cut in find_cuts(of, granularity)]


def place_names(of: Partitioned) -> list[str]:
    """Names of all places where it can be cut, in order, whatever crosses there."""
    return [place.name for place in of.places]


def prepared(
    module: nn.Module, example: torch.Tensor
) -> tuple[Partitioned, list[torch.Tensor], list[tuple[torch.Tensor, ...]]]:
    """A small model as a program, with two inputs and what the model returns for them."""
    given = [example, -2 * example + 1]
    module.eval().requires_grad_(False)
    return programmed(module, *given), given, [whole(module, tensor) for tensor in given]


def state_sha256(model: nn.Module) -> str:
    """Checksum of a model's state dict."""
    return weights_sha256({n: tensor_sha256(t, n) for n, t in model.state_dict().items()})


class Normed(nn.Module):
    """A user's model with BatchNorm, a zero head and tied layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 4, 1)
        self.third = nn.Conv2d(4, 4, 1)
        self.third.weight = self.second.weight
        self.head = nn.Linear(4, 3)
        nn.init.zeros_(self.head.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return three logits."""
        y = self.third(torch.relu(self.second(self.norm(self.first(x)))))
        logits: torch.Tensor = self.head(y.mean((2, 3)))
        return logits


class Sized(Normed):
    """The same, which says what it takes."""

    input_shape = (2, 9, 9)


NORMED, SIZED = f"{__name__}:Normed", f"{__name__}:Sized"


@torch.inference_mode()
def output(of: nn.Module, tensor: torch.Tensor) -> torch.Tensor:
    """What a model returns; the input is left as it is."""
    result: torch.Tensor = of(tensor.clone())
    return result

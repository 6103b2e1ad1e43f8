"""Which modules are blocks: after them granularity `block` cuts.

A block is a unit that a model repeats, wherever it is nested, or a stage that stands beside such
units: MobileNetV2's `features.3`, ResNet's `layer2.0`, a transformer's `encoder.layers.4`,
DenseNet's `features.denseblock1.denselayer2`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from torch import nn

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def block_paths(model: nn.Module) -> Iterator[str]:
    """Yield the paths of a model's blocks; where several end at once, the first names the place.

    Units come before the block that they are in, and that before what stands beside its units.
    """
    yield from _inside(model, "", ())


def _inside(module: nn.Module, prefix: str, own: tuple[str, ...]) -> Iterator[str]:
    """Blocks among the modules inside one, and its own path, if it is a block with others in it."""
    beside = []
    for name, child in module.named_children():
        path = f"{prefix}{name}"
        # A chain of layers is passed through, unless it is one of a list of such chains.
        listed = isinstance(module, nn.ModuleList | nn.ModuleDict)
        if _is_plain(child) and not (listed and not _has_units(child)):
            yield from _inside(child, f"{path}.", ())
        elif _has_units(child):
            yield from _inside(child, f"{path}.", (path,))
        elif isinstance(module, _CONTAINERS):
            yield path
        else:
            beside.append(path)
    yield from own
    yield from beside


def _is_plain(module: nn.Module) -> bool:
    """Whether a module is a container and no subclass of one.

    Types go by their names: those of an exported file's modules are only called like torch's.
    """
    return _name(type(module)) in {_name(kind) for kind in _CONTAINERS}


def _name(kind: type) -> tuple[str, str]:
    """Module and name of a type."""
    return kind.__module__, kind.__qualname__


def _has_units(module: nn.Module, depth: int = 1) -> bool:
    """Whether a module repeats units of so many levels at least.

    Inside what is no container they must be larger than a layer with its normalisation and
    activation, of which most blocks have several.
    """
    if isinstance(module, _CONTAINERS):
        if _repeats(module, depth):
            return True
        return any(_is_plain(c) and _has_units(c, depth) for c in module.children())
    return any(isinstance(c, _CONTAINERS) and _has_units(c, 2) for c in module.children())


def _repeats(module: nn.Module, depth: int) -> bool:
    """Whether a module has two children of one type with at least so many levels inside."""
    counts = Counter(type(child) for child in module.children() if _depth(child) >= depth)
    return any(count > 1 for count in counts.values())


def _depth(module: nn.Module) -> int:
    """Levels of modules inside a module: none in a layer."""
    return 1 + max((_depth(child) for child in module.children()), default=-1)

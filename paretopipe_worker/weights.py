"""Weights: drawn so that the signal stays alive, saved, loaded and named by a digest.

Random draws and BatchNorm statistics differ in the last bits between CPUs and thread counts, so
weights are made once, on the controller, and every host loads the same file.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

DEAD = 1e-3
"""A parameter whose elements are all one number no larger than this passes no usable signal."""

NORMALISING = (_BatchNorm, _InstanceNorm, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
"""Layers that set the size of a signal anew."""


class WeightsError(ValueError):
    """A weights file cannot be read, or does not fit the model."""


@torch.no_grad()
def keep_signal_alive(model: nn.Module, batch: torch.Tensor | None) -> None:
    """Change freshly drawn weights so that the output depends on the input and on every stage.

    Parameters
    ----------
    model
        In eval mode. Parameters that pass nothing on (ViT's zero head, ConvNeXt's 1e-6 layer
        scale) and the layers of a model that never normalises (AlexNet) are drawn from the global
        generator, and BatchNorm takes its statistics from one forward pass. With torchvision's
        defaults MobileNetV2 returns 1e-9, ViT exactly zero, AlexNet little but its biases.
    batch
        The batch, ``(batch, *input)``, for the statistics; needed where the model has BatchNorm.
    """
    if not any(isinstance(module, NORMALISING) for module in model.modules()):
        _preserve_variance(model)
    for parameter in model.parameters():
        _revive(parameter)
    if batch is not None:
        _calibrate(model, batch)


def has_batch_norm(model: nn.Module) -> bool:
    """Whether :func:`keep_signal_alive` needs a batch to calibrate the model."""
    return any(_calibrated(model))


def _preserve_variance(model: nn.Module) -> None:
    """Draw weights with which a chain of ReLU layers keeps its signal's size (He et al., 2015).

    PyTorch's default shrinks its variance sixfold per layer, so that biases decide the output.
    """
    for module in model.modules():
        if isinstance(module, (nn.Linear, _ConvNd)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _revive(parameter: nn.Parameter) -> None:
    """Draw the parameter anew where every element is the same number, near zero."""
    first = parameter.flatten()[:1]
    if parameter.numel() == 0 or first.abs().item() > DEAD or not bool((parameter == first).all()):
        return
    # 1-dimensional ones are biases and gains: large draws would drown the input.
    fan_in = parameter[0].numel() if parameter.dim() > 1 else 100
    parameter.normal_(std=fan_in**-0.5)


def _calibrated(model: nn.Module) -> list[_BatchNorm]:
    """Modules of the model that keep running statistics."""
    return [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats
    ]


def _calibrate(model: nn.Module, batch: torch.Tensor) -> None:
    """Set the running statistics to those of one forward pass with everything else in eval mode."""
    norms = _calibrated(model)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average: after one batch, that batch's statistics
        norm.train()
    model(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def weights_sha256(model: nn.Module) -> str:
    """SHA-256 over name, dtype, shape and bytes of every parameter and buffer, sorted by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(_tensors(model).items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().view(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """All parameters and buffers by name; one that has two names is listed under both."""
    return dict(
        itertools.chain(
            model.named_parameters(remove_duplicate=False),
            model.named_buffers(remove_duplicate=False),
        )
    )


def save_weights(model: nn.Module, path: Path) -> str:
    """Write the model's state as safetensors, whole or not at all.

    Returns
    -------
    str
        :func:`weights_sha256` of the model: loaded elsewhere, it must give the same.
    """
    written: set[int] = set()
    state: dict[str, torch.Tensor] = {}
    for name, tensor in model.state_dict().items():
        # safetensors refuses shared storage: tied weights are written once under each name.
        storage = tensor.untyped_storage().data_ptr()
        state[name] = tensor.clone() if storage in written else tensor.contiguous()
        written.add(storage)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        save_file(state, partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return weights_sha256(model)


def load_weights(model: nn.Module, path: Path, *, ignore: Iterable[str] = ()) -> None:
    """Load a checkpoint into the model; one on the meta device takes the file's tensors over.

    Parameters
    ----------
    model
        Receives the tensors.
    path
        A state dict: safetensors by the suffix ``.safetensors``, else ``torch.save``'s format,
        which is read with ``weights_only=True`` and so runs no code.
    ignore
        Prefixes of names in the file that the model is known not to have.

    Raises
    ------
    WeightsError
        When the file cannot be read, or names, shapes or dtypes differ from the model's.
    """
    found = {
        name: tensor for name, tensor in _read(path).items() if not name.startswith(tuple(ignore))
    }
    expected = model.state_dict()
    for name, tensor in expected.items():
        # Files older than this counter lack it; it has no effect outside training.
        if name.endswith(".num_batches_tracked"):
            found.setdefault(name, torch.zeros_like(tensor, device="cpu"))
    faults = [
        *_listed("not in the file", expected.keys() - found.keys()),
        *_listed("not in the model", found.keys() - expected.keys()),
        *_listed("of another shape or dtype", _mismatched(expected, found)),
    ]
    if faults:
        raise WeightsError(f"{path} does not fit {type(model).__name__}: {'; '.join(faults)}")
    model.load_state_dict(found, assign=any(t.is_meta for t in expected.values()))


def _read(path: Path) -> Mapping[str, torch.Tensor]:
    """State dict in the file, by its suffix."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise WeightsError(f"cannot read weights from {path}: {error}") from error
    if not isinstance(state, Mapping) or not all(
        isinstance(t, torch.Tensor) for t in state.values()
    ):
        raise WeightsError(
            f"{path} holds no state dict (names to tensors) at its top level, "
            f"save `model.state_dict()` itself"
        )
    return state


def _mismatched(
    expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]
) -> Iterable[str]:
    """Names whose tensors differ in shape or dtype, with both."""
    for name in expected.keys() & found.keys():
        want, have = expected[name], found[name]
        if (want.shape, want.dtype) != (have.shape, have.dtype):
            yield (
                f"{name} ({tuple(have.shape)} {have.dtype} for {tuple(want.shape)} {want.dtype})"
            )


def _listed(what: str, names: Iterable[str], most: int = 5) -> list[str]:
    """One clause of an error: how many names and the first few, nothing where there are none."""
    ordered = sorted(names)
    if not ordered:
        return []
    more = ", ..." if len(ordered) > most else ""
    return [f"{len(ordered)} {what}: {', '.join(ordered[:most])}{more}"]

"""Random weights with which a model's output depends on its input and on every stage."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from paretopipe_worker.model.weights import attributes_kept

DEAD = 1e-3
"""A parameter whose elements are all equal and at most this large passes no usable signal."""

NORMALISING = (_BatchNorm, _InstanceNorm, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
"""Layers that rescale their input to a fixed size."""


@torch.no_grad()
def keep_signal_alive(model: nn.Module, batch: Sequence[torch.Tensor] | None) -> None:
    """Change freshly drawn weights so that the output depends on the input and on every stage.

    With torchvision's default weights MobileNetV2 returns 1e-9, ViT exactly zero, and AlexNet
    little but its biases.

    Parameters
    ----------
    model
        A model in eval mode. Parameters that pass no signal (ViT's zero head, ConvNeXt's layer
        scale of 1e-6) and the layers of a model without normalisation (AlexNet) are drawn anew from
        the global generator. BatchNorm takes its statistics from one forward pass.
    batch
        The model's inputs, ``(batch, *input)`` each, for these statistics; required where the model
        has BatchNorm.
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
    """Draw weights with which ReLU layers preserve the signal's variance (He et al., 2015).

    With PyTorch's default the variance shrinks sixfold per layer, so that biases decide the output.
    """
    for module in model.modules():
        if isinstance(module, (nn.Linear, _ConvNd)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _revive(parameter: nn.Parameter) -> None:
    """Draw the parameter anew where all of its elements are the same number near zero."""
    first = parameter.flatten()[:1]
    if parameter.numel() == 0 or first.abs().item() > DEAD or not bool((parameter == first).all()):
        return
    # One-dimensional parameters are biases and gains: large values would drown the input.
    fan_in = parameter[0].numel() if parameter.dim() > 1 else 100
    parameter.normal_(std=fan_in**-0.5)


def _calibrated(model: nn.Module) -> list[_BatchNorm]:
    """Modules of the model that keep running statistics."""
    return [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats
    ]


def _calibrate(model: nn.Module, batch: Sequence[torch.Tensor]) -> None:
    """Set the running statistics to those of one forward pass in which all else is in eval mode."""
    norms = _calibrated(model)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average: after one batch, the statistics of that batch
        norm.train()
    with attributes_kept(model):
        model(*batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()

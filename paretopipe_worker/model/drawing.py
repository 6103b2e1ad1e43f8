"""Random weights, drawn so that the signal stays alive."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from paretopipe_worker.model.weights import attributes_kept

DEAD = 1e-3
"""A parameter whose elements are all one number no larger than this passes no usable signal."""

NORMALISING = (_BatchNorm, _InstanceNorm, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
"""Layers that set the size of a signal anew."""


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
    with attributes_kept(model):
        model(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()

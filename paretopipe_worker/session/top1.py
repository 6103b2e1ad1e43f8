"""How often a pipeline puts an image into the class that the model, computed in float32, does."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from paretopipe_worker.plan.experiment import ModelSpec

_Tensors = tuple[torch.Tensor, ...]


class Top1:
    """The share of images of one class in both, over those whose outputs came back.

    Parameters
    ----------
    images
        How many different images there are; item n begins with image n, see
        :func:`paretopipe_worker.model.inputs.items`.
    references
        What the model returns for each item: ``(batch, classes)``.
    """

    def __init__(self, images: int, references: Sequence[_Tensors]) -> None:
        self._images = images
        self._wanted = [reference.argmax(dim=-1) for (reference,) in references]
        self._agreed: dict[int, bool] = {}
        self._seen: set[int] = set()

    def add(self, number: int, outputs: _Tensors) -> None:
        """Compare the output of item `number`; the same item is compared once."""
        if number in self._seen:
            return
        self._seen.add(number)
        same = outputs[0].argmax(dim=-1) == self._wanted[number]
        for row, alike in enumerate(same.tolist()):
            image = (number + row) % self._images
            self._agreed[image] = alike and self._agreed.get(image, True)

    @property
    def agreement(self) -> float | None:
        """The share, from 0 to 1; None where no output came back."""
        return sum(self._agreed.values()) / len(self._agreed) if self._agreed else None


def top1(
    model: ModelSpec, images: torch.Tensor | None, references: Sequence[_Tensors]
) -> Top1 | None:
    """Prepare the comparison, where it means something: trained weights, images and classes."""
    trained = model.weights is not None or model.exported
    classes = all(len(each) == 1 and each[0].dim() == 2 for each in references)
    return Top1(len(images), references) if trained and images is not None and classes else None

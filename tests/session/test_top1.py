"""Whether a pipeline puts images into the classes that the model does."""

from __future__ import annotations

import torch

from paretopipe_worker.plan.experiment import ImageSpec, ModelSpec
from paretopipe_worker.session.top1 import Top1, top1

CLASSES = torch.eye(4)


def outputs(*classes: int) -> tuple[torch.Tensor, ...]:
    """An output in which these classes are the largest, by image of the batch."""
    return (CLASSES[list(classes)],)


def test_the_share_is_of_images_and_each_item_is_compared_once() -> None:
    compared = Top1(4, [outputs(number) for number in range(4)])
    assert compared.agreement is None
    compared.add(0, outputs(0))
    assert compared.agreement == 1
    for _ in range(3):
        compared.add(1, outputs(3))
    assert compared.agreement == 1 / 2
    compared.add(2, outputs(2))
    compared.add(3, (outputs(3)[0] * 0.3 - 7,))
    assert compared.agreement == 3 / 4


def test_an_image_agrees_only_where_it_does_in_every_batch() -> None:
    # Items of two images each begin with another of the three.
    compared = Top1(3, [outputs(0, 1), outputs(1, 2), outputs(2, 0)])
    compared.add(0, outputs(0, 1))
    assert compared.agreement == 1
    compared.add(1, outputs(3, 2))
    assert compared.agreement == 2 / 3
    compared.add(2, outputs(2, 3))
    assert compared.agreement == 1 / 3


def test_nothing_is_compared_where_it_would_mean_nothing() -> None:
    images, trained = torch.zeros(2, 3, 8, 8), ModelSpec(name="tiny", weights="DEFAULT")
    references = [outputs(0), outputs(1)]
    assert top1(trained, images, references)
    assert top1(trained, None, references) is None
    drawn = ModelSpec(name="tiny", inputs=ImageSpec(images="photos"))
    assert top1(drawn, images, references) is None
    maps = [(torch.zeros(1, 4, 8, 8),)] * 2
    assert top1(trained, images, maps) is None
    assert top1(trained, images, [each * 2 for each in references]) is None

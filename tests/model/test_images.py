"""Images from a folder as inputs: which are taken, how they are prepared, which items they make."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from paretopipe_worker.cuts import InputSpec
from paretopipe_worker.model import inputs
from paretopipe_worker.model.images import prepared
from paretopipe_worker.model.origins.from_torchvision import torchvision_models
from paretopipe_worker.model.sources import ModelError, Source
from paretopipe_worker.model.weights import WeightsError, tensor_sha256

COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images of one colour each, and a file that is none."""
    (made := tmp_path / "photos").mkdir()
    for name, colour in zip(("b.PNG", "a.jpg", "c.webp"), COLOURS, strict=True):
        Image.new("RGB", (40, 20), colour).save(made / name)
    (made / "readme.txt").write_text("not an image")
    return made


def told(source: str, folder: Path, **asked: object) -> tuple[torch.Tensor, str]:
    """The images as a model gets them, and what is noted."""
    notes: list[str] = []
    found = prepared(Source.of(source), folder, 8, note=notes.append, **asked)
    [note] = notes
    return found, note


def test_images_come_in_the_order_of_their_names_with_the_models_own_transforms(
    folder: Path,
) -> None:
    found, note = told("resnet18", folder)
    transform = torchvision_models().get_model_weights("resnet18").DEFAULT.transforms()
    for tensor, name in zip(found, ("a.jpg", "b.PNG", "c.webp"), strict=True):
        with Image.open(folder / name) as image:
            assert torch.equal(tensor, transform(image.convert("RGB")))
    assert note == f"resnet18: 3 images of {folder}, prepared by the transforms of its library"


def test_for_another_size_an_image_is_fitted_and_normalised(folder: Path) -> None:
    with Image.new("RGB", (30, 10), (255, 0, 0)) as image:
        image.paste((0, 0, 255), (0, 0, 10, 10))  # a side that is cut off
        image.save(folder / "a.png")
    found, note = told("resnet18", folder, shape=(3, 10, 10))
    assert found.shape == (4, 3, 10, 10)
    red = (torch.tensor([1.0, 0, 0]) - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor(
        [0.229, 0.224, 0.225]
    )
    assert torch.allclose(found[1, :, :, 2:8], red.view(3, 1, 1).expand(3, 10, 6))
    assert "prepared by resizing, cropping around the centre and normalising" in note


def test_a_grey_image_is_made_for_one_channel(folder: Path) -> None:
    assert told("tests.helpers.models:Sized", folder, shape=(1, 6, 9))[0].shape == (3, 1, 6, 9)


def test_what_is_no_image_or_too_few_is_refused_in_a_line(folder: Path, tmp_path: Path) -> None:
    (broken := folder / "a0.png").write_bytes(b"\x89PNG broken")
    (empty := tmp_path / "empty").mkdir()
    cases = {
        folder: f"inputs: {broken} cannot be read as an image: UnidentifiedImageError",
        empty: f"inputs: {empty} has 0 images; allowed is a folder of at least 2, in files that",
        tmp_path / "no": f"inputs: {tmp_path / 'no'} cannot be read: No such file or directory",
    }
    for path, said in cases.items():
        with pytest.raises(ModelError) as refused:
            told("resnet18", path)
        assert said in str(refused.value)
        assert "\n" not in str(refused.value)
    with pytest.raises(ModelError, match=r"it takes float32 \(2, 9, 9\), which are no images"):
        told("tests.helpers.models:Sized", folder)


def test_each_item_begins_with_another_image_whatever_the_batch() -> None:
    images = torch.arange(3.0).view(3, 1, 1, 1)
    for batch, wanted in ((1, [[0], [1], [2]]), (2, [[0, 1], [1, 2], [2, 0]])):
        taken = [InputSpec((batch, 1, 1, 1), "float32")]
        found = [item.flatten().tolist() for (item,) in inputs.items(taken, seed=0, images=images)]
        assert found == wanted


def test_images_that_are_not_the_plans_are_refused_with_their_file(tmp_path: Path) -> None:
    images, file = torch.rand(2, 3, 4, 4), tmp_path / "images.safetensors"
    inputs.save_images(images, file)
    sha256 = tensor_sha256(images)
    assert torch.equal(inputs.load_images(file, sha256), images)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(WeightsError, match=r"images\.safetensors: has other images than the plan"):
        inputs.load_images(file, sha256)

"""A sweep whose inputs are images: they are sent to the host of the source, and to no other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.helpers.labs import throwaway
from tests.helpers.namespaces import reason_without_namespaces
from tests.helpers.sweeps import Checkout

pytestmark = [
    pytest.mark.slow,
    pytest.mark.alone,
    pytest.mark.long,
    pytest.mark.skipif(bool(reason_without_namespaces()), reason=reason_without_namespaces()),
]

EXPERIMENT = """\
models:
  - name: small
    factory: paretopipe_worker.model.tiny:network
    inputs: {images: photos, count: 3}
splits: {cuts: ["2"]}
phases: {min_items: 6, min_s: 0.05, max_s: 20, retries: 0}
"""


@pytest.fixture
def copy(tmp_path: Path) -> Iterator[Checkout]:
    """A throwaway checkout."""
    with throwaway(tmp_path / "checkout") as made:
        yield made


def test_images_are_sent_to_the_source_alone_and_measured(copy: Checkout) -> None:
    (photos := copy.root / "experiments/photos").mkdir()
    for number in range(3):
        Image.new("RGB", (40, 30), (80 * number, 9, 200)).save(photos / f"{number}.png")
    copy.sweep(copy.write("experiments/images.yml", EXPERIMENT), "images").succeeded()
    points = copy.results("images").points
    assert list(points.status) == ["ok"] * 3, points
    assert list(points.output) == ["exact"] * 3, points
    sent = {
        host: [path.name for path in copy.root.glob(f".lab/{host}/home/programs/images-*")]
        for host in ("edge", "server")
    }
    sha256 = copy.results("images").plan["tables"][0]["images_sha256"]
    assert sent == {"edge": [f"images-{sha256}.safetensors"], "server": []}

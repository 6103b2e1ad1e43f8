"""Weights that torchvision publishes, by their names, from a server or its cache."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from paretopipe_worker.model import zoo
from paretopipe_worker.model.origins.from_torchvision import torchvision_models
from paretopipe_worker.model.sources import ModelError, Source, default_input
from paretopipe_worker.usertext import is_path
from tests.helpers.models import state_sha256

NAME = "squeezenet1_1"


@dataclass(frozen=True)
class Hub:
    """A server of weights, and the model whose weights it has."""

    folder: Path
    model: torch.nn.Module


class _Quiet(SimpleHTTPRequestHandler):
    """Serve files without a word."""

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Have torchvision's weights of the model come from a server of this test."""
    served, cache = tmp_path / "served", tmp_path / "cache"
    served.mkdir()
    model = zoo.build(NAME, seed=7, input_shape=(3, 64, 64))
    torch.save(model.state_dict(), served / "net.pth")
    sha256 = hashlib.sha256((served / "net.pth").read_bytes()).hexdigest()
    (served / "net.pth").rename(served / f"net-{sha256[:8]}.pth")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(cache))
    handler = partial(_Quiet, directory=str(served))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/net-{sha256[:8]}.pth"
        entry = torchvision_models().get_model_weights(NAME).IMAGENET1K_V1
        value = entry.value
        monkeypatch.setattr(entry, "_value_", type(value)(url, value.transforms, value.meta))
        try:
            yield Hub(served, model)
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("name", ["DEFAULT", "IMAGENET1K_V1"])
def test_weights_come_from_where_torchvision_says_and_then_from_its_cache(
    name: str, hub: Hub
) -> None:
    source = Source("mine", NAME, weights=name)
    assert state_sha256(zoo.build(source, seed=1)) == state_sha256(hub.model)
    [file] = hub.folder.iterdir()
    file.unlink()
    assert state_sha256(zoo.build(source, seed=1)) == state_sha256(hub.model)


def test_weights_that_are_not_there_or_are_others_are_refused_in_a_line(hub: Hub) -> None:
    [file] = hub.folder.iterdir()
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    said = []
    for _ in range(2):
        with pytest.raises(ModelError) as refused:
            zoo.build(Source(NAME, weights="DEFAULT"), seed=1)
        said.append(str(refused.value))
        file.unlink(missing_ok=True)
    for line, cause in zip(said, ("invalid hash value", "HTTP Error 404"), strict=True):
        assert line.startswith(f"model '{NAME}': weights: http://127.0.0.1:")
        assert cause in line
        assert line.endswith("or a checkpoint that was fetched elsewhere, by its path")
        assert "\n" not in line


def test_a_name_that_the_library_has_not_is_refused_with_those_that_it_has() -> None:
    said = r"none of the name 'IMAGENET'; allowed: IMAGENET1K_V1, .*has a '/' or a '\.'"
    with pytest.raises(ModelError, match=said):
        zoo.build(Source(NAME, weights="IMAGENET"), seed=1)
    with pytest.raises(ModelError, match="none of the name 'DEFAULT'; allowed: the path of"):
        zoo.build(Source("mine", "tests.helpers.models:Sized", weights="DEFAULT"), seed=1)


def test_the_input_is_that_of_the_weights() -> None:
    name = "vit_b_16"
    assert default_input(name) == (3, 224, 224)
    assert default_input(Source(name, weights="IMAGENET1K_SWAG_E2E_V1")) == (3, 384, 384)


@pytest.mark.parametrize(
    ("written", "path"),
    [("DEFAULT", False), ("IMAGENET1K_V1", False), ("pretrained", False)]
    + [(each, True) for each in ("trained.pt", "./weights", "/a/b", "~/x", "..")],
)
def test_a_path_is_told_from_a_name_by_a_slash_or_a_dot(written: str, path: bool) -> None:
    assert is_path(written) == path

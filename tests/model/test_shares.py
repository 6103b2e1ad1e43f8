"""A host has the tensors of its own stages in a file of their own, and computes the same bits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

from paretopipe_worker.cuts import FIRST, LAST
from paretopipe_worker.model import loading, weights
from paretopipe_worker.model.capture import capture
from paretopipe_worker.model.partition import Partitioned, split
from paretopipe_worker.model.program import PartitionError
from paretopipe_worker.model.weights import WeightsError


@pytest.fixture(scope="module")
def model() -> Partitioned:
    """A network none of whose tensors has a size that is a multiple of a vector's."""
    layers = [nn.Conv2d(3, 7, 3), nn.BatchNorm2d(7), nn.ReLU(), nn.Conv2d(7, 5, 3), nn.Flatten()]
    whole = nn.Sequential(*layers, nn.Linear(5 * 12 * 12, 11)).eval().requires_grad_(False)
    found = capture(whole, [torch.ones(1, 3, 16, 16)])
    return Partitioned(found.program, found.tensors)


@pytest.fixture
def stored(model: Partitioned, tmp_path: Path) -> Path:
    """The file of all of its tensors."""
    sha256 = weights.weights_sha256({n: h.sha256 for n, h in model.program.tensors.items()})
    weights.save_weights(model.tensors, tmp_path / f"{sha256}.safetensors")
    return tmp_path / f"{sha256}.safetensors"


def part(stored: Path, model: Partitioned, *stages: tuple[str, str]) -> Path:
    """The file of the tensors of some stages."""
    return stored.with_name(loading.store_part(stored, [(model.program, *s) for s in stages]))


def loaded(file: Path, model: Partitioned, *, whole: bool = False) -> Partitioned:
    """What a host has that was sent a file."""
    tensors = loading.load_tensors(file, [model.program], part=not whole)
    return loading.partitioned(model.program, tensors)


def test_a_stage_of_a_part_returns_the_bits_of_a_stage_of_all(
    model: Partitioned, stored: Path
) -> None:
    every = loaded(stored, model, whole=True)
    assert every.complete
    names = [place.name for place in model.places]
    given: Sequence[torch.Tensor] = [torch.rand(1, 3, 16, 16)]
    for rank, ends in enumerate(zip((LAST, *names), (*names, FIRST), strict=True)):
        own = loaded(part(stored, model, ends), model)
        assert not own.complete
        assert own.tensors.keys() == set(model.held_between(*ends))
        with torch.inference_mode():
            [stage] = filter(None, split(own, names, only=rank))
            crossing = stage(*given)
            [reference] = filter(None, split(every, names, only=rank))
            assert all(map(torch.equal, crossing, reference(*given))), ends
        given = crossing
    with pytest.raises(PartitionError, match="the stage lacks the tensor"):
        split(loaded(part(stored, model, (LAST, names[0])), model), names)


def test_tensors_begin_alike_in_every_file(model: Partitioned, stored: Path) -> None:
    names = [place.name for place in model.places]
    for file in (stored, part(stored, model, (names[0], FIRST))):
        tensors = weights.read_weights(file)
        assert [name for name, t in tensors.items() if t.data_ptr() % 64] == [], file
        for name, tensor in tensors.items():
            assert torch.equal(tensor, model.tensors[name])


def test_hosts_of_the_same_stages_share_a_file_and_all_stages_make_that_of_all(
    model: Partitioned, stored: Path
) -> None:
    names = [place.name for place in model.places]
    first = part(stored, model, (LAST, names[2]))
    written = first.stat().st_mtime_ns
    assert part(stored, model, (names[0], names[2]), (LAST, names[0])) == first
    assert first.stat().st_mtime_ns == written
    assert part(stored, model, (LAST, names[2]), (names[2], FIRST)) == stored
    nothing = part(stored, model)
    assert loading.load_tensors(nothing, [model.program], part=True) == {}


def test_one_changed_bit_of_a_part_is_refused_with_the_files_name(
    model: Partitioned, stored: Path
) -> None:
    file = part(stored, model, (LAST, model.places[0].name))
    content = file.read_bytes()
    begin = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:begin])
    said = {"0.weight": "tensor '0.weight' has other values", "@padding": "is damaged between"}
    for name, text in said.items():
        [(first, last)] = [
            entry["data_offsets"] for key, entry in header.items() if key.startswith(name)
        ][:1]
        for place in (first, last - 1):
            changed = bytearray(content)
            changed[begin + place] ^= 1
            file.write_bytes(changed)
            with pytest.raises(WeightsError, match=f"^{file}: {text}.*delete the file") as no:
                loading.load_tensors(file, [model.program], part=True)
            assert len(str(no.value).splitlines()) == 1
    # The controller makes it again before it sends it.
    assert part(stored, model, (LAST, model.places[0].name)) == file
    assert file.read_bytes() == content
    # The right tensors, but not those that the name promises.
    weights.save_weights({"0.bias": model.tensors["0.bias"]}, file)
    with pytest.raises(WeightsError, match=f"^{file}: holds other tensors than its name says"):
        loading.load_tensors(file, [model.program], part=True)


def test_references_come_back_as_they_were_stored_or_are_refused(tmp_path: Path) -> None:
    outputs = [(torch.rand(1, 3), torch.arange(4)) for _ in range(12)]
    file = tmp_path / f"{loading.store_references(outputs, tmp_path)}.safetensors"
    again = loading.load_references(file)
    assert len(again) == len(outputs)
    for found, wanted in zip(again, outputs, strict=True):
        assert all(map(torch.equal, found, wanted))
    content = bytearray(file.read_bytes())
    content[8 + int.from_bytes(content[:8], "little")] ^= 1
    file.write_bytes(content)
    with pytest.raises(WeightsError, match=f"^{file}: holds other values than its name says"):
        loading.load_references(file)


def test_a_host_that_executes_stages_from_files_is_sent_no_tensors(
    model: Partitioned, stored: Path
) -> None:
    own = loaded(part(stored, model), model)
    assert not own.tensors and not own.complete

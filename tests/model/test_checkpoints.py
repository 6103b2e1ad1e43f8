"""Weights that are saved, and checkpoints that people have."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from paretopipe_worker.model.checkpoints import load_weights
from paretopipe_worker.model.sources import ModelError
from paretopipe_worker.model.weights import WeightsError, save_weights
from paretopipe_worker.model.zoo import build
from tests.helpers.models import SIZED, Normed, classifier, output, state_sha256, two_inputs


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", SIZED])
def test_saved_weights_make_the_same_model_again(name: str, suffix: str, tmp_path: Path) -> None:
    model, path = build(name, seed=1), tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_weights(model.state_dict(), path)
    else:
        torch.save(model.state_dict(), path)
    loaded = build(name, seed=2, weights=path)
    assert state_sha256(loaded) == state_sha256(model)
    # Kernels round by where in memory weights begin, which a file decides for all who load it: two
    # models of one file agree in the last bits, the saved model and a loaded one need not.
    tensor = two_inputs(name)[0]
    first, again = (output(build(name, seed=2, weights=path), tensor) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.allclose(first, output(model, tensor), rtol=0, atol=1e-5)
    assert not any(p.requires_grad for p in loaded.parameters())


def test_saving_twice_writes_the_same_bytes_and_nothing_else(tmp_path: Path) -> None:
    model = build(SIZED, seed=1)
    for name in ("a", "b"):
        save_weights(model.state_dict(), tmp_path / f"{name}.safetensors")
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a.safetensors", "b.safetensors"]
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_the_checksum_covers_names_values_and_buffers() -> None:
    model = build(SIZED, seed=1)
    sums = {state_sha256(model)}
    model.norm.running_mean[0] += 1
    sums.add(state_sha256(model))
    model.head.bias[0] += 1
    sums.add(state_sha256(model))
    model.renamed = model.head
    sums.add(state_sha256(model))
    assert len(sums) == 4


def test_auxiliary_heads_in_a_checkpoint_are_left_out(tmp_path: Path) -> None:
    model = classifier("inception_v3")
    path = tmp_path / "official.pt"
    torch.save({**model.state_dict(), "AuxLogits.fc.bias": torch.zeros(2)}, path)
    assert state_sha256(build("inception_v3", seed=1, weights=path)) == state_sha256(model)


def test_a_checkpoint_older_than_the_batch_counter_loads(tmp_path: Path) -> None:
    model = classifier("resnet18")
    path = tmp_path / "old.pt"
    state = {k: v for k, v in model.state_dict().items() if not k.endswith("batches_tracked")}
    torch.save(state, path)
    loaded = build("resnet18", seed=1, weights=path)
    assert torch.equal(
        output(loaded, two_inputs("resnet18")[0]), output(model, two_inputs("resnet18")[0])
    )


def test_a_checkpoint_that_does_not_fit_is_refused_with_file_and_names(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    model = build(SIZED, seed=1)
    save_weights(model.state_dict(), path)
    with pytest.raises(ModelError) as caught:
        build("resnet18", seed=1, weights=path)
    for part in (str(path), "not in the file: bn1.bias, ", "not in the model: first.bias, ", "..."):
        assert part in str(caught.value)
    model.head = nn.Linear(4, 7)
    with pytest.raises(WeightsError, match=r"of another shape.*head\.bias \(\(3,\) .* for \(7,\)"):
        load_weights(model, path)


WRAPPED = {
    "DataParallel": (("module.",), "prefix 'module.' removed from the names of its 13 tensors"),
    "compiled": (("_orig_mod.",), "prefix '_orig_mod.' removed from the names of its 13 tensors"),
    "both": (("_orig_mod.", "module."), "prefix 'module._orig_mod.' removed"),
    "both, the other way": (("module.", "_orig_mod."), "prefix '_orig_mod.module.' removed"),
}


@pytest.mark.parametrize("prefixes,told", WRAPPED.values(), ids=WRAPPED)
def test_prefixes_of_wrapped_models_are_taken_off_with_a_word(
    prefixes: tuple[str, ...], told: str, tmp_path: Path
) -> None:
    model, path, notes = build(SIZED, seed=1), tmp_path / "trained.pt", []
    state = model.state_dict()
    for prefix in prefixes:
        state = {prefix + name: tensor for name, tensor in state.items()}
    torch.save(state, path)
    loaded = build(SIZED, seed=2, weights=path, note=notes.append)
    assert state_sha256(loaded) == state_sha256(model)
    [note] = notes
    assert note.startswith(f"{path}: {told}")


def test_a_prefix_that_is_the_models_own_or_not_all_names_have_stays(tmp_path: Path) -> None:
    wrapped, path, notes = nn.DataParallel(Normed()), tmp_path / "own.pt", []
    torch.save(wrapped.state_dict(), path)
    load_weights(wrapped, path, note=notes.append)
    assert notes == []
    state = build(SIZED, seed=1).state_dict()
    torch.save({f"module.{n}" if n != "head.bias" else n: t for n, t in state.items()}, path)
    with pytest.raises(ModelError, match=r"12 not in the model: module\.first\.bias"):
        build(SIZED, seed=1, weights=path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_checkpoint_of_16_bits_becomes_float32_with_a_word(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    model, path, notes = build(SIZED, seed=1), tmp_path / "half.pt", []
    torch.save({f"module.{n}": t for n, t in model.to(dtype).state_dict().items()}, path)
    loaded = build(SIZED, seed=2, weights=path, note=notes.append)
    assert {t.dtype for t in loaded.state_dict().values()} == {torch.float32, torch.int64}
    assert torch.equal(loaded.head.weight, model.head.weight.float())
    kind = str(dtype).removeprefix("torch.")
    assert notes[1:] == [f"{path}: 12 tensors converted from {kind} to the model's float32"]
    torch.save({n: t.double() for n, t in model.state_dict().items()}, path)
    with pytest.raises(ModelError, match=r"head\.bias \(\(3,\) torch\.float64 for \(3,\)"):
        build(SIZED, seed=2, weights=path)


def test_a_file_that_is_no_checkpoint_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path}/ran",)

    missing, garbage, evil, nested = (tmp_path / f"{name}.pt" for name in "abcd")
    garbage.write_bytes(b"not a checkpoint")
    torch.save({"x": Evil()}, evil)
    torch.save({"state_dict": {"x": torch.zeros(1)}}, nested)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"\0" * 16)
    for path in (missing, garbage, evil, nested, broken):
        with pytest.raises(ModelError, match=str(path)):
            build("resnet18", seed=1, weights=path)
    assert not (tmp_path / "ran").exists()

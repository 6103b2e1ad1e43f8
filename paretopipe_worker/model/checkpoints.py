"""Users' checkpoints: state dicts in files, as training code saves them."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import nn

from paretopipe_worker.model.weights import (
    WeightsError,
    listed,
    mismatched,
    place,
    read_weights,
    tensors,
)

WRAPPERS = {"module.": "DataParallel", "_orig_mod.": "torch.compile"}
"""Prefixes that a wrapper puts before the name of every tensor, and the name of the wrapper."""

HALVES = (torch.float16, torch.bfloat16)


def load_weights(
    model: nn.Module,
    path: Path,
    *,
    ignore: Iterable[str] = (),
    note: Callable[[str], object] = lambda text: None,
) -> None:
    """Load a checkpoint into the model; parameters on the meta device become the file's tensors.

    Prefixes of :data:`WRAPPERS` that all names have are removed, and 16-bit floats are converted
    to float32 where the model has float32.

    Parameters
    ----------
    model
        Receives the tensors.
    path
        A state dict: in safetensors' format where the suffix is ``.safetensors``, else in that of
        ``torch.save``, which is read with ``weights_only=True`` and so runs no code.
    ignore
        Prefixes of names that the file may hold and the model does not have.
    note
        Called with one line of text for each change that made the checkpoint fit.

    Raises
    ------
    WeightsError
        When the file cannot be read, or names, shapes or dtypes differ from the model's.
    """
    expected = model.state_dict()
    found = _unwrapped(_read(path), expected, path, note)
    found = {name: t for name, t in found.items() if not name.startswith(tuple(ignore))}
    for name, tensor in expected.items():
        # Old files lack this counter, which has no effect outside training.
        if name.endswith(".num_batches_tracked"):
            found.setdefault(name, torch.zeros_like(tensor, device="cpu"))
    found = _converted(found, expected, path, note)
    # A file may also hold tensors that are not in the state dict, such as plain attributes.
    beside = {name: found.pop(name) for name in tensors(model).keys() - expected if name in found}
    faults = [
        *listed("not in the file", expected.keys() - found.keys()),
        *listed("not in the model", found.keys() - expected.keys()),
        *listed("of another shape or dtype", mismatched(expected, found)),
    ]
    if faults:
        raise WeightsError(f"{path} does not fit {type(model).__name__}: {'; '.join(faults)}")
    model.load_state_dict(found, assign=any(t.is_meta for t in expected.values()))
    place(model, beside, path)


def _read(path: Path) -> Mapping[str, torch.Tensor]:
    """Read the state dict, in the format that the file's suffix says."""
    if path.suffix == ".safetensors":
        return read_weights(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise WeightsError(f"cannot read weights from {path}: {error}") from error
    if not isinstance(state, Mapping) or not all(
        isinstance(t, torch.Tensor) for t in state.values()
    ):
        raise WeightsError(
            f"{path} holds no state dict (names to tensors) at its top level, "
            f"save `model.state_dict()` itself"
        )
    return state


def _unwrapped(
    found: Mapping[str, torch.Tensor],
    expected: Mapping[str, torch.Tensor],
    path: Path,
    note: Callable[[str], object],
) -> Mapping[str, torch.Tensor]:
    """Remove wrappers' prefixes that all names in the file have and the model's names have not."""
    taken = ""
    while found and (prefix := _common(found)) and prefix != _common(expected):
        found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
        taken += prefix
    if taken:
        note(f"{path}: prefix '{taken}' removed from the names of its {len(found)} tensors")
    return found


def _common(names: Iterable[str]) -> str | None:
    """The wrapper's prefix that all names have, None where there is none."""
    return next((p for p in WRAPPERS if all(name.startswith(p) for name in names)), None)


def _converted(
    found: Mapping[str, torch.Tensor],
    expected: Mapping[str, torch.Tensor],
    path: Path,
    note: Callable[[str], object],
) -> dict[str, torch.Tensor]:
    """Convert 16-bit floats to float32 where the model has float32."""
    converted = dict(found)
    kinds = set()
    for name in found.keys() & expected.keys():
        if found[name].dtype in HALVES and expected[name].dtype == torch.float32:
            converted[name] = found[name].float()
            kinds.add(str(found[name].dtype).removeprefix("torch."))
    if kinds:
        count = sum(converted[name] is not found[name] for name in found)
        note(
            f"{path}: {count} tensors converted from {' and '.join(sorted(kinds))} to the model's "
            "float32"
        )
    return converted

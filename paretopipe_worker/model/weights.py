"""The tensors that a model holds, and the file in which they travel, under one checksum.

Random draws, BatchNorm statistics and whatever else a factory computes differ in the last bits
between CPUs and numbers of threads. So the controller makes all tensors once, and every host
computes with those of that file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""What safetensors calls each dtype that it can hold."""

AGAIN = "delete the file and run the sweep again"
"""What to do about a file that is damaged or not the plan's: the controller has it or makes it."""

_ALIGNMENT = 64  # as torch aligns the memory of a tensor that it makes; no vector is wider
_PADDING = "@padding"  # no name of a model's tensor: those are paths of modules


class WeightsError(ValueError):
    """A weights file cannot be read or written, or does not fit the model."""


def tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Every tensor that a model holds, by qualified name; a tensor with two names is listed twice.

    These are parameters, buffers (also those outside the state dict), and tensors that are plain
    attributes of a module.

    Raises
    ------
    WeightsError
        When the model's state has parts that are not tensors, such as packed parameters.
    """
    found: dict[str, torch.Tensor] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        held = {**vars(module), **module._parameters, **module._buffers}
        for name, value in held.items():
            if isinstance(value, torch.Tensor):
                found[f"{path}.{name}" if path else name] = value
    held_ids = {id(tensor) for tensor in found.values()}
    state = model.state_dict(keep_vars=True)
    if others := [name for name, value in state.items() if id(value) not in held_ids]:
        faults = listed("no tensor of its modules", others)
        raise WeightsError(
            f"{type(model).__name__} cannot be moved to a host: in its state {faults[0]}; allowed "
            "are parameters, buffers and attributes that are tensors (dynamically quantised models "
            "pack their parameters)"
        )
    return found


@contextlib.contextmanager
def attributes_kept(model: nn.Module) -> Iterator[None]:
    """Restore the modules' attributes after the block, in which the model runs.

    What a run leaves on a model must not become part of what is captured of it.
    """
    held = {module: dict(vars(module)) for module in model.modules()}
    yield
    for module, attributes in held.items():
        vars(module).clear()
        vars(module).update(attributes)


def weights_sha256(checksums: Mapping[str, str]) -> str:
    """SHA-256 over the names and checksums of tensors, sorted by name.

    Parameters
    ----------
    checksums
        :func:`tensor_sha256` of each tensor, by name.
    """
    text = "".join(f"{name} {sha256}\n" for name, sha256 in sorted(checksums.items()))
    return hashlib.sha256(text.encode()).hexdigest()


def tensor_sha256(tensor: torch.Tensor, name: str = "") -> str:
    """SHA-256 over dtype, shape and bytes of a tensor, its elements in order.

    Raises
    ------
    WeightsError
        When it is not a dense tensor in memory.
    """
    flat = _plain(name, tensor).view(-1)
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
    digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _plain(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """The tensor without gradient and contiguous; it shares memory where nothing must change."""
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        kind = f"{tensor.dtype}, {tensor.layout}, on {tensor.device.type}"
        raise WeightsError(
            f"tensor {name!r} ({kind}) cannot be stored; allowed are dense tensors in memory"
        )
    return tensor.detach().resolve_conj().resolve_neg().contiguous()


def save_weights(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write tensors by name as safetensors; the file is complete or not there.

    Each tensor begins at a multiple of 64 bytes, behind padding that is a tensor of its own, of
    zeros. Kernels round by where in a vector's width a tensor begins, so a file of some tensors
    would else give other bits than a file of all. The library's own writer leaves no room.

    Raises
    ------
    WeightsError
        When the format cannot hold one of them.
    """
    plain = {name: _plain(name, tensor) for name, tensor in tensors.items()}
    if wrong := sorted({str(t.dtype) for t in plain.values() if t.dtype not in _DTYPES}):
        raise WeightsError(
            f"cannot store tensors of {', '.join(wrong)}; allowed are {', '.join(_DTYPES.values())}"
        )
    header: dict[str, dict[str, object]] = {}
    end = 0
    for number, (name, tensor) in enumerate(plain.items()):
        begin, end = end, end + tensor.nbytes
        header[name] = _entry(_DTYPES[tensor.dtype], tensor.shape, begin, end)
        if gap := -end % _ALIGNMENT:
            header[f"{_PADDING}{number}"] = _entry("U8", (gap,), end, end + gap)
            end += gap
    text = json.dumps(header).encode()
    text += b" " * (-(len(text) + 8) % _ALIGNMENT)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for tensor in plain.values():
                file.write(tensor.view(-1).view(torch.uint8).numpy().data)
                file.write(bytes(-tensor.nbytes % _ALIGNMENT))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _entry(dtype: str, shape: Sequence[int], begin: int, end: int) -> dict[str, object]:
    """A tensor in the header of a safetensors file."""
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, by name; the file is mapped and read when it is used.

    Raises
    ------
    WeightsError
        When it cannot be read.
    """
    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"cannot read weights from {path}: {error}") from error
    padding = [found.pop(name) for name in list(found) if name.startswith(_PADDING)]
    if any(map(torch.any, padding)):
        raise WeightsError(f"{path}: is damaged between its tensors; {AGAIN}")
    return found


@torch.no_grad()
def place(model: nn.Module, state: Mapping[str, torch.Tensor], source: Path) -> None:
    """Replace tensors that the model holds by those of the same names.

    A tensor is overwritten in its own memory, so that every other reference to it, and every view
    of it, sees the new values. A tensor on the meta device is exchanged for the new one.

    Parameters
    ----------
    model
        Receives the tensors. Names that it does not hold are ignored.
    state
        Tensors by qualified name.
    source
        The file they come from, which errors name.

    Raises
    ------
    WeightsError
        When shapes or dtypes differ.
    """
    own = tensors(model)
    if faults := listed("of another shape or dtype", mismatched(own, state)):
        raise WeightsError(f"{source} does not fit {type(model).__name__}: {faults[0]}")
    for name in own.keys() & state.keys():
        if own[name].is_meta:
            _replace(model, name, state[name])
        else:
            _overwrite(model, name, own[name], state[name])


def _overwrite(model: nn.Module, name: str, old: torch.Tensor, new: torch.Tensor) -> None:
    """Copy the values; a tensor whose elements overlap in memory is exchanged instead."""
    try:
        old.copy_(new)
    except RuntimeError:
        _replace(model, name, new)


def _replace(model: nn.Module, name: str, new: torch.Tensor) -> None:
    """Have the model hold another tensor under this name; a parameter stays a parameter."""
    path, _, attribute = name.rpartition(".")
    module = model.get_submodule(path)
    if attribute in module._parameters:
        new = nn.Parameter(new, requires_grad=False)
    setattr(module, attribute, new)


def mismatched(own: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor]) -> Iterable[str]:
    """Names whose tensors differ in shape or dtype, each with what is given and what is wanted."""
    for name in own.keys() & given.keys():
        want, have = own[name], given[name]
        if (want.shape, want.dtype) != (have.shape, have.dtype):
            yield (
                f"{name} ({tuple(have.shape)} {have.dtype} for {tuple(want.shape)} {want.dtype})"
            )


def listed(what: str, names: Iterable[str], most: int = 5) -> list[str]:
    """One clause of an error, with the number of names and the first few; empty without names."""
    ordered = sorted(names)
    if not ordered:
        return []
    more = ", ..." if len(ordered) > most else ""
    return [f"{len(ordered)} {what}: {', '.join(ordered[:most])}{more}"]

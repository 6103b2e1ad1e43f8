"""Load a program and its tensors as a host does: from files that are named by their checksums."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch

from paretopipe_worker.model import program as programs
from paretopipe_worker.model.flat import restoring
from paretopipe_worker.model.partition import Partitioned
from paretopipe_worker.model.program import PartitionError, Program
from paretopipe_worker.model.weights import (
    AGAIN,
    WeightsError,
    read_weights,
    save_weights,
    tensor_sha256,
    weights_sha256,
)


def save_program(program: Program, file: Path) -> None:
    """Write a program for :func:`load_program`; the file is complete or not there.

    The checksum by which a plan names a program is another than that of the file: it leaves out
    lines of source code, which may move.
    """
    save_checked(programs.dump(program), file)


def save_checked(data: bytes, file: Path) -> None:
    """Write bytes for :func:`load_checked`; the file is complete or not there.

    Its first line is the checksum of all bytes that follow.
    """
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    partial.write_bytes(hashlib.sha256(data).hexdigest().encode() + b"\n" + data)
    partial.replace(file)


def load_checked(file: Path) -> bytes:
    """Read what :func:`save_checked` wrote.

    Raises
    ------
    PartitionError
        When the file is missing or damaged.
    """
    try:
        said, _, data = file.read_bytes().partition(b"\n")
    except OSError as error:
        raise PartitionError(f"{file}: cannot be read: {error.strerror}") from error
    if hashlib.sha256(data).hexdigest().encode() != said:
        raise PartitionError(f"{file}: is damaged: its bytes have another checksum; {AGAIN}")
    return data


def load_program(file: Path, sha256: str) -> Program:
    """Read a program that the plan names.

    Raises
    ------
    PartitionError
        When the file is missing, damaged, no program, or another one than the plan names.
    """
    text = load_checked(file)
    program = programs.load(text, str(file))
    if (found := programs.sha256(program)) != sha256:
        raise PartitionError(
            f"{file}: has the checksum {found}, the plan's program has {sha256}; {AGAIN}"
        )
    return program


def load_tensors(
    file: Path, wanted: Sequence[Program], *, part: bool = False
) -> dict[str, torch.Tensor]:
    """Read the tensors that programs hold, and check each against its checksum.

    Parameters
    ----------
    file
        Written by :func:`paretopipe_worker.model.weights.save_weights`.
    wanted
        Programs of one model, for inputs of several shapes.
    part
        Whether the file need not have all tensors, but exactly those whose checksums its name is
        made of, see :func:`store_part`.

    Returns
    -------
    The tensors by name, mapped from the file.

    Raises
    ------
    WeightsError
        When the file cannot be read, or a tensor is missing or another one; the text names both.
    """
    tensors = read_weights(file)
    found = {name: tensor_sha256(tensor, name) for name, tensor in tensors.items()}
    for program in wanted:
        for name, held in program.tensors.items():
            if name not in found:
                if part:
                    continue
                raise WeightsError(f"{file}: has no tensor {name!r}, which the program holds")
            if found[name] != held.sha256:
                raise WeightsError(
                    f"{file}: tensor {name!r} has other values than the program's; {AGAIN}"
                )
    if part and file.stem != weights_sha256(found):
        raise WeightsError(f"{file}: holds other tensors than its name says; {AGAIN}")
    return tensors


def store_part(whole: Path, stages: Iterable[tuple[Program, str, str]]) -> str:
    """Write the tensors that some stages bind to a file of their own, beside that of all.

    Parameters
    ----------
    whole
        File of all tensors.
    stages
        Each a program, and the names of the cuts, or endpoints, between which the stage lies.

    Returns
    -------
    The file's name, which is made of the checksums of what it holds.

    Raises
    ------
    WeightsError
        See :func:`load_tensors`.
    """
    programs: list[Partitioned] = []
    checksums: dict[str, str] = {}
    for program, before, after in stages:
        if not programs or programs[-1].program is not program:
            programs.append(Partitioned(program, {}))
        for name in programs[-1].held_between(before, after):
            checksums[name] = program.tensors[name].sha256
    file = whole.with_name(f"{weights_sha256(checksums)}.safetensors")
    wanted = [each.program for each in programs]
    try:
        load_tensors(file, wanted, part=True)
    except WeightsError:  # it is not there, or damaged
        tensors = load_tensors(whole, wanted)
        save_weights({name: tensors[name] for name in sorted(checksums)}, file)
    return file.name


def store_references(outputs: Sequence[Sequence[torch.Tensor]], folder: Path) -> str:
    """Write what a program returns for several inputs to a file that is named by its checksum.

    Returns
    -------
    The checksum.
    """
    tensors = {
        f"{index}.{number}": tensor
        for index, each in enumerate(outputs)
        for number, tensor in enumerate(each)
    }
    checksums = {name: tensor_sha256(tensor, name) for name, tensor in tensors.items()}
    sha256 = weights_sha256(checksums)
    file = folder / f"{sha256}.safetensors"
    if not file.exists():
        save_weights(tensors, file)
    return sha256


def load_references(file: Path) -> list[tuple[torch.Tensor, ...]]:
    """Read what a program returns, by input; it is checked against the file's name.

    Raises
    ------
    WeightsError
        When the file cannot be read or holds something else.
    """
    tensors = read_weights(file)
    found = {name: tensor_sha256(tensor, name) for name, tensor in tensors.items()}
    if file.stem != weights_sha256(found):
        raise WeightsError(f"{file}: holds other values than its name says; {AGAIN}")
    outputs: dict[int, list[torch.Tensor]] = {}
    for index, number in sorted(tuple(map(int, name.split("."))) for name in tensors):
        outputs.setdefault(index, []).append(tensors[f"{index}.{number}"])
    return [tuple(each) for _, each in sorted(outputs.items())]


def partitioned(program: Program, tensors: Mapping[str, torch.Tensor]) -> Partitioned:
    """Give a program the tensors that there are, with the strides that they have in the model."""
    given = {}
    for name, held in program.tensors.items():
        if name not in tensors:
            continue
        given[name] = tensors[name]
        if not held.layout.contiguous:
            given[name] = restoring(held.layout)(tensors[name])
    return Partitioned(program, given)

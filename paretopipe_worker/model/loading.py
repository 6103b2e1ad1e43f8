"""Load a program and its tensors as a host does: from files that are named by their checksums."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import torch

from paretopipe_worker.model import program as programs
from paretopipe_worker.model.flat import restoring
from paretopipe_worker.model.partition import Partitioned
from paretopipe_worker.model.program import PartitionError, Program
from paretopipe_worker.model.weights import WeightsError, read_weights, tensor_sha256


def save_program(program: Program, file: Path) -> None:
    """Write a program for :func:`load_program`; the file is complete or not there.

    A line with the checksum of all its bytes comes first.

    The checksum by which a plan names it leaves out lines of source code, which may move.
    """
    text = programs.dump(program)
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    partial.write_bytes(hashlib.sha256(text).hexdigest().encode() + b"\n" + text)
    partial.replace(file)


def load_program(file: Path, sha256: str) -> Program:
    """Read a program that the plan names.

    Raises
    ------
    PartitionError
        When the file is missing, damaged, no program, or another one than the plan names.
    """
    try:
        said, _, text = file.read_bytes().partition(b"\n")
    except OSError as error:
        raise PartitionError(f"{file}: cannot be read: {error.strerror}") from error
    again = "delete the file and run the sweep again"
    if hashlib.sha256(text).hexdigest().encode() != said:
        raise PartitionError(f"{file}: is damaged: its bytes have another checksum; {again}")
    program = programs.load(text, str(file))
    if (found := programs.sha256(program)) != sha256:
        raise PartitionError(
            f"{file}: has the checksum {found}, the plan's program has {sha256}; {again}"
        )
    return program


def load_tensors(file: Path, wanted: list[Program]) -> dict[str, torch.Tensor]:
    """Read the tensors that programs hold, and check each against its checksum.

    Parameters
    ----------
    file
        Written by :func:`paretopipe_worker.model.weights.save_weights`.
    wanted
        Programs of one model, for inputs of several shapes.

    Returns
    -------
    The tensors by name, mapped from the file.

    Raises
    ------
    WeightsError
        When the file cannot be read, or a tensor is missing or another one; the text names it.
    """
    tensors = read_weights(file)
    found = {name: tensor_sha256(tensor, name) for name, tensor in tensors.items()}
    for program in wanted:
        for name, held in program.tensors.items():
            if name not in found:
                raise WeightsError(f"{file}: has no tensor {name!r}, which the program holds")
            if found[name] != held.sha256:
                raise WeightsError(
                    f"{file}: tensor {name!r} has other values than the program's; delete the file "
                    "and run the sweep again"
                )
    return tensors


def partitioned(program: Program, tensors: Mapping[str, torch.Tensor]) -> Partitioned:
    """Give a program its tensors, with the strides that they have in the model."""
    given = {}
    for name, held in program.tensors.items():
        given[name] = tensors[name]
        if not held.layout.contiguous:
            given[name] = restoring(held.layout)(tensors[name])
    return Partitioned(program, given)

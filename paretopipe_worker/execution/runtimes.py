"""The runtimes, by the names that specs use. This module needs neither torch nor a runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from paretopipe_worker.cuts import EAGER

CPU = "cpu"
"""The device of a host that names no other."""


@dataclass(frozen=True)
class Runtime:
    """What can execute a stage.

    Parameters
    ----------
    words
        What it does, for people.
    package
        The package that hosts need for it.
    modules
        Full name of the module with its ``build``, by kind of device (``cpu``, ``cuda``); see
        :mod:`paretopipe_worker.execution.api`.
    dtypes
        Those in which it can compute.
    exact
        Kinds of device on which its stages return the same bits as the whole program does there.
    exported
        Whether it reads stages from files that the controller writes.
    """

    words: str
    package: str
    modules: Mapping[str, str]
    dtypes: tuple[str, ...]
    exact: tuple[str, ...] = ()
    exported: bool = False


RUNTIMES = {
    EAGER: Runtime(
        words="torch, operator by operator",
        package="torch",
        modules={
            "cpu": "paretopipe_worker.execution.eager",
            "cuda": "paretopipe_worker.execution.cuda",
        },
        dtypes=("float32", "bfloat16", "float16"),
        exact=("cpu",),
    ),
    "onnxruntime": Runtime(
        words="ONNX Runtime, which joins operators and has kernels of its own",
        package="onnxruntime",
        modules={
            "cpu": "paretopipe_worker.execution.onnx",
            "cuda": "paretopipe_worker.execution.onnx",
        },
        dtypes=("float32", "int8"),
        exported=True,
    ),
}


def kind(device: str) -> str:
    """The kind of a device: ``cpu`` or ``cuda``, without the number."""
    return device.partition(":")[0]


def is_exact(runtime: str, device: str) -> bool:
    """Whether a runtime's stages return the same bits as the whole program does."""
    return kind(device) in RUNTIMES[runtime].exact

"""The runtimes that stages may be executed by, listed without loading any of them."""

from __future__ import annotations

from dataclasses import dataclass

from paretopipe_worker.cuts import EAGER


@dataclass(frozen=True)
class Runtime:
    """One runtime.

    Attributes
    ----------
    words
        What it is, for people.
    dtypes
        Numbers that it can compute with, on some device.
    """

    words: str
    dtypes: tuple[str, ...]


RUNTIMES = {
    EAGER: Runtime("torch, operator by operator", ("float32", "bfloat16", "float16")),
    "onnxruntime": Runtime("ONNX Runtime, from files of exported stages", ("float32", "int8")),
}
"""All runtimes, by the names that specs and inventories have for them."""

"""Torchvision's wheel for CUDA beside a CPU build of torch: whoever imports it, it can be imported.

It cannot load its compiled operators there, and then dies while it describes two of them, ``nms``
and ``qnms``, to the compiler. No classifier uses either. So their schemas are declared and
torchvision is executed again, where it failed for want of them and never otherwise: beside a build
that has them declared a second declaration ends the process.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

import torch

_PACKAGE = "torchvision"
_MISSING = f"operator {_PACKAGE}::nms does not exist"

_declared: list[torch.library.Library] = []
"""The schemas live as long as this library object."""


def mend_torchvision() -> None:
    """Have every later import of torchvision in this process mended, if it needs to be.

    Any other error of such an import, and this one beside a torch with an accelerator, is a broken
    installation and surfaces.
    """
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds torchvision where the other finders do, and watches over its execution."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find the package; all else is left to the others."""
        if fullname != _PACKAGE:
            return None
        for finder in sys.meta_path:
            if finder is not self and (spec := finder.find_spec(fullname, path, target)):
                if spec.loader is not None:
                    execute = functools.partial(_execute, spec.loader.exec_module)
                    spec.loader.exec_module = execute  # type: ignore[method-assign]
                return spec
        return None


def _execute(execute: Callable[[ModuleType], None], module: ModuleType) -> None:
    """Execute torchvision; once more where it lacked the two schemas."""
    try:
        execute(module)
    except RuntimeError as error:
        builds = (getattr(torch.version, kind, None) for kind in ("cuda", "hip", "xpu"))
        if str(error) != _MISSING or any(builds) or _declared:
            raise
    else:
        return
    _declared.append(_declare())
    for loaded in [name for name in sys.modules if name.startswith(f"{_PACKAGE}.")]:
        del sys.modules[loaded]
    execute(module)


def _declare() -> torch.library.Library:
    """Declare the two operators as torchvision's own C++ code would."""
    library = torch.library.Library(_PACKAGE, "FRAGMENT")  # type: ignore[no-untyped-call]
    for operator in ("nms", "qnms"):
        schema = f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        library.define(schema)  # type: ignore[no-untyped-call]
    return library

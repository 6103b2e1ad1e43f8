"""Make torchvision's CUDA wheel importable beside a CPU build of torch.

There torchvision cannot load its compiled operators, and its import fails while it registers two
of them, ``nms`` and ``qnms``, with the compiler. No classifier uses either. After exactly this
failure the two schemas are declared here and torchvision is executed again. They are never declared
otherwise: a second declaration of an operator ends the process.
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
"""The schemas stay declared as long as this library object lives."""


def mend_torchvision() -> None:
    """Mend every later import of torchvision in this process that needs it.

    Any other error of the import, and this error beside a build of torch with an accelerator,
    means a broken installation and is raised.
    """
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds torchvision through the other finders, and wraps its execution."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find torchvision; other packages are left to the other finders."""
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
    """Execute torchvision, and once more after declaring the two schemas if it lacked them."""
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
    """Declare the two operators as torchvision's C++ code does."""
    library = torch.library.Library(_PACKAGE, "FRAGMENT")  # type: ignore[no-untyped-call]
    for operator in ("nms", "qnms"):
        schema = f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        library.define(schema)  # type: ignore[no-untyped-call]
    return library

"""Models of a person's own: ``package.module:factory``."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from torch import nn

from paretopipe_worker.cuts import InputSpec
from paretopipe_worker.model.nms import mend_torchvision
from paretopipe_worker.model.origins.api import (
    ModelError,
    Source,
    Transform,
    called,
    no_weights,
    said_shape,
)
from paretopipe_worker.model.usercode import RAISED, aside, told


class Own:
    """Factories that people write."""

    drawn = True
    on_meta = False  # a factory may compute with its parameters

    def factory(self, source: Source) -> Callable[[], object]:
        """Import ``package.module:factory``."""
        if source.weights:
            raise no_weights(source)
        module_name, _, attribute = source.made_by.partition(":")
        if source.path is not None and not source.path.exists():
            raise ModelError(
                f"model {source.name!r}: path: there is no {source.path}; allowed is the file or "
                f"folder in which {module_name!r} lies"
            )
        mend_torchvision()  # the module may import it, and so may the factory when it is called
        try:
            with aside(), _findable(source.path):
                module = importlib.import_module(module_name)
        except RAISED as error:
            where = f"in {source.path}" if source.path else "on this host's Python path"
            raise ModelError(
                f"model {source.name!r}: importing {module_name!r} failed with {told(error)}; "
                f"it must be {where}"
            ) from error
        folder = source.path and (source.path if source.path.is_dir() else source.path.parent)
        if folder and not Path(module.__file__ or "").resolve().is_relative_to(folder.resolve()):
            raise ModelError(
                f"model {source.name!r}: module {module_name!r} is that of {module.__file__} and "
                f"not in {folder}; allowed are names of modules that no other module has"
            )
        factory = getattr(module, attribute, None)
        if not callable(factory):
            raise ModelError(
                f"model {source.name!r}: {module_name!r} has no callable {attribute!r}; allowed is "
                f"a function or class that takes {source.given} and returns an nn.Module"
            )

        def make() -> object:
            with _findable(source.path):  # what it imports when it is called lies there, too
                return factory(**source.arguments)

        if (shape := getattr(factory, "input_shape", None)) is not None:
            make.input_shape = shape  # type: ignore[attr-defined]
        return make

    def inputs(self, source: Source, model: nn.Module | None) -> tuple[InputSpec, ...]:
        """The attribute ``input_shape`` of the factory, or of the model that it returns."""
        factory = self.factory(source)
        shape = getattr(factory, "input_shape", None)
        if shape is None:
            shape = getattr(model or called(source, factory), "input_shape", None)
        return said_shape(source, shape)

    def ignored(self, source: Source) -> tuple[str, ...]:
        """None: a person's checkpoint holds what the model holds."""
        return ()

    def transform(self, source: Source, shape: tuple[int, ...]) -> Transform | None:
        """None: nothing is known of it."""
        return None


@contextlib.contextmanager
def _findable(path: Path | None) -> Iterator[None]:
    """Have Python find modules in a folder, or in that of a file, while the block lasts."""
    if path is None:
        yield
        return
    folder = str(path if path.is_dir() else path.parent)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)

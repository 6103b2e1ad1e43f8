"""YAML that others wrote: data alone, one value for each key, and no larger than it looks."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any

import yaml

from paretopipe_worker.usertext import shown

MOST_BYTES = 1_000_000
"""Size of the largest file that is read."""

_MOST_ALIASED = 4 * MOST_BYTES
"""Characters that a document may gain where each alias is replaced by what it stands for. A few
lines of aliases can stand for terabytes."""


def load(text: str) -> Any:
    """Read one document.

    Raises
    ------
    yaml.YAMLError
        When it is no YAML, or holds what is refused, naming the line: a tag that would make
        anything but data, a key given twice (YAML would keep the last) or one that is neither text
        nor number, a number that is not finite, aliases of which one stands for itself or all for
        too much, or too many levels.
    ValueError
        When a number has thousands of digits.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, which refuses more."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._most = 2 * len(text) + _MOST_ALIASED

    def compose_document(self) -> yaml.Node | None:
        """Compose a document whose aliases stand for little."""
        root: yaml.Node | None = super().compose_document()
        if root is not None and (size := _written_out(root, {})) > self._most:
            raise yaml.constructor.ConstructorError(
                None,
                None,
                f"its aliases stand for {size} characters in all; at most {self._most} are read",
                root.start_mark,
            )
        return root

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Build a mapping whose keys differ."""
        seen: set[Hashable] = set()
        for each, _ in node.value:
            key = self.construct_object(each, deep=True)
            if key is not None and not isinstance(key, str | int | float):
                raise _refused(f"key {shown(key)} is neither text nor number", each)
            if key in seen:
                raise _refused(f"key {shown(key)} is given twice", each)
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        """Build a number that is one."""
        value: float = super().construct_yaml_float(node)
        if not math.isfinite(value):
            raise _refused(f"{shown(node.value)} is not finite; numbers must be", node)
        return value


_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)


def _written_out(node: yaml.Node, known: dict[int, int]) -> int:
    """Characters of a node, about, once its aliases are written out.

    Parameters
    ----------
    known
        What is known of nodes by their ids; 0 of one that is being looked at.
    """
    if (size := known.get(id(node))) is not None:
        if size == 0:
            raise _refused("this stands for itself", node)
        return size
    known[id(node)] = 0
    size = 1
    if isinstance(node, yaml.ScalarNode):
        size += len(node.value)
    elif isinstance(node, yaml.SequenceNode):
        size += sum(_written_out(each, known) for each in node.value)
    else:
        size += sum(_written_out(each, known) for pair in node.value for each in pair)
    known[id(node)] = size
    return size


def _refused(why: str, node: yaml.Node) -> yaml.constructor.ConstructorError:
    """The error of a node."""
    return yaml.constructor.ConstructorError(None, None, why, node.start_mark)

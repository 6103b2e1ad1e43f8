"""How a split and a placement are written: in tables, in errors and in figures."""

from __future__ import annotations

from collections.abc import Sequence


def split_label(cuts: Sequence[str]) -> str:
    """The cuts of a pipeline in order, joined by ``+``.

    >>> split_label(["layer1", "layer3"])
    'layer1+layer3'
    """
    return "+".join(cuts)


def placement_label(hosts: Sequence[str]) -> str:
    """The hosts of a pipeline by rank, joined by ``>``.

    >>> placement_label(["pi", "server"])
    'pi>server'
    """
    return ">".join(hosts)


def hosts_of(placement: str) -> tuple[str, ...]:
    """The hosts by rank that a placement's label names."""
    return tuple(placement.split(">"))


def readable(placement: str, arrow: str = ">") -> str:
    """A placement's label with room around its arrows.

    >>> readable("pi>server")
    'pi > server'
    """
    return f" {arrow} ".join(hosts_of(placement))

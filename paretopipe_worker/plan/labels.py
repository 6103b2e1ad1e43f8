"""How a split and a placement are written: in tables, in errors and in figures."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from paretopipe_worker.cuts import EAGER, FIRST, LAST, PLAIN


def split_label(cuts: Iterable[str]) -> str:
    """The cuts of a pipeline in order, joined by ``+``.

    >>> split_label(["layer1", "layer3"])
    'layer1+layer3'
    """
    return "+".join(cuts)


def cuts_of(split: str) -> tuple[str, ...]:
    """The cuts that a split's label names."""
    return tuple(split.split("+"))


def busy(cuts: Sequence[str], hosts: Sequence[str]) -> tuple[str, ...]:
    """The hosts of a placement that compute: those whose stage is not empty.

    >>> busy(["layer1", "layer1"], ["pi", "hub", "server"])
    ('pi', 'server')
    >>> busy(["@last", "@first"], ["pi", "hub", "server"])
    ('hub',)
    """
    bounds = itertools.pairwise((LAST, *cuts, FIRST))
    return tuple(
        host for host, (before, after) in zip(hosts, bounds, strict=True) if before != after
    )


def everything_on(cuts: Sequence[str], hosts: Sequence[str]) -> str | None:
    """In words that a split is an endpoint, and at which host; None where several share the work.

    >>> everything_on(["@last"], ["pi", "server"])
    'all on server'
    """
    at_work = busy(cuts, hosts)
    return f"all on {at_work[0]}" if len(at_work) == 1 else None


def placement_label(hosts: Sequence[str]) -> str:
    """The hosts of a pipeline by rank, joined by ``>``.

    >>> placement_label(["pi", "server"])
    'pi>server'
    """
    return ">".join(hosts)


def hosts_of(placement: str) -> tuple[str, ...]:
    """The hosts by rank that a placement's label names."""
    return tuple(placement.split(">"))


def runtimes_label(runtimes: Sequence[str]) -> str:
    """The runtimes of a pipeline by rank, joined by ``>``; one name where they are all the same.

    >>> runtimes_label(["eager", "onnxruntime"])
    'eager>onnxruntime'
    >>> runtimes_label(["onnxruntime", "onnxruntime"]), runtimes_label([])
    ('onnxruntime', 'eager')
    """
    return ">".join(runtimes if len(set(runtimes)) > 1 else runtimes[:1]) or EAGER


USUAL: dict[str, object] = {"runtimes": EAGER, "wire": PLAIN, "busy": False, "sources": 1}
"""The circumstances of most points, by column, which need no mention."""


def circumstances(runtimes: str, wire: str, busy: bool, sources: int) -> list[str]:
    """In words what a point differs in from one as most are: eager, fp32, idle hosts, one source.

    >>> circumstances("eager>onnxruntime", "int8", True, 2)
    ['eager > onnxruntime', 'int8 on the wire', 'busy hosts', '2 sources']
    >>> circumstances("eager", "fp32", False, 1)
    []
    """
    return [
        *([readable(runtimes)] if runtimes != EAGER else []),
        *([f"{wire} on the wire"] if wire != PLAIN else []),
        *(["busy hosts"] if busy else []),
        *([f"{sources} sources"] if sources > 1 else []),
    ]


def readable(placement: str, arrow: str = ">") -> str:
    """A placement's label with room around its arrows.

    >>> readable("pi>server")
    'pi > server'
    """
    return f" {arrow} ".join(hosts_of(placement))

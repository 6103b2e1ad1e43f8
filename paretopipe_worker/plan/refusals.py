"""Why points are not measured: reasons that are known before the first session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Refusal:
    """Why one point is not measured.

    Attributes
    ----------
    where
        What stands against it: a host, perhaps with the rank there, or a model.
    why
        What is the matter, and what is allowed: a sentence without its first capital.
    """

    where: str
    why: str

    @property
    def reason(self) -> str:
        """Why the point is not measured, as its record says it."""
        return f"{self.where}: {self.why}"

    @property
    def cause(self) -> str:
        """What points have in common that are told in one line."""
        return self.why

    def together(self, others: Sequence[Refusal]) -> str:
        """Why all points of its cause are not measured; `others` are all of them."""
        return self.why


def told(refusals: Mapping[str, Refusal]) -> list[str]:
    """One line for each place and cause: how many points are not measured, and why.

    Parameters
    ----------
    refusals
        By the ids of the points.
    """
    causes: dict[tuple[str, str], list[Refusal]] = {}
    for each in refusals.values():
        causes.setdefault((each.where, each.cause), []).append(each)
    return [
        f"{where}: {_points(len(those))} not measured, since {those[0].together(those)}"
        for (where, _), those in sorted(causes.items(), key=lambda item: item[0])
    ]


def _points(number: int) -> str:
    """So many points, and the verb."""
    return "1 point is" if number == 1 else f"{number} points are"

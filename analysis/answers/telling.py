"""All answers of a run: as values, and as sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.answers.choosing import choices
from analysis.answers.hosts import worth
from analysis.answers.limits import Limit
from analysis.answers.regret import across_links
from analysis.answers.splitting import verdicts
from analysis.column import CHOICES
from analysis.tables import front
from paretopipe_worker.plan.labels import USUAL, circumstances, readable

_NOUN = {column: name for name, column in CHOICES.items()}


def answers(
    points: pd.DataFrame,
    measured: pd.DataFrame,
    objectives: Mapping[str, str],
    limited: Sequence[Limit],
    *,
    uncertified: bool,
) -> dict[str, list[dict[str, Any]]]:
    """The answers of a run.

    Returns
    -------
    ``verdicts``: see :func:`analysis.answers.splitting.verdicts`; ``choices``: see
    :func:`analysis.answers.choosing.choices`; ``across_links``: see
    :func:`analysis.answers.regret.across_links`; ``hosts``: see
    :func:`analysis.answers.hosts.worth`.
    """
    return {
        "verdicts": verdicts(points, measured, uncertified=uncertified),
        "choices": choices(points, limited, objectives, uncertified=uncertified),
        "across_links": across_links(points, uncertified=uncertified),
        "hosts": worth(points, uncertified=uncertified),
    }


def told(document: Mapping[str, list[dict[str, Any]]]) -> Iterator[str]:
    """The answers in lines for people: what they are about, and below it a sentence each.

    Parameters
    ----------
    document
        As :func:`answers` returns it; other keys are passed over.
    """
    told: dict[str, list[str]] = {}
    for about, sentence in _sentences(document):
        told.setdefault(about, []).append(sentence)
    for about, sentences in told.items():
        yield f"  {about}"
        yield from (f"    {each[0].upper()}{each[1:]}." for each in sentences)


def _sentences(document: Mapping[str, list[dict[str, Any]]]) -> Iterator[tuple[str, str]]:
    """Each sentence with what it is about."""
    for choice in document["choices"]:
        taken = f"take {choice['split']}: the {choice['why']}" if choice["split"] else choice["why"]
        yield title(choice), taken
    for group in document["verdicts"]:
        yield title(group), group["text"]
    for row in document["across_links"]:
        yield title(row | {"link": f"(all {row['links']} links)"}), never_far(row)
    for row in document["hosts"]:
        yield f"{row['model']} over link {row['link']}: what each host brings", brought(row)


def never_far(row: Mapping[str, Any]) -> str:
    """The split of least regret, in words."""
    return (
        f"over all links {row['split']} is never more than {100 * row['regret']:.0f} % from the "
        f"best {_NOUN[row['objective']]} (that far over {row['link']})"
    )


def brought(row: Mapping[str, Any]) -> str:
    """What a host brings."""
    if row["gain"] is None:
        return f"nothing was measured without {row['host']}"
    if row["gain"] <= 0:
        return f"the best {_NOUN[row['objective']]} does without {row['host']}"
    return (
        f"without {row['host']} the best {_NOUN[row['objective']]} is {row['without']:.3g} "
        f"in place of {row['best']:.3g}"
    )


def title(group: dict[str, Any]) -> str:
    """What a front is of."""
    special = circumstances(*(group.get(name, USUAL[name]) for name in front.CIRCUMSTANCES))
    further = [group["dtype"]] if "dtype" in group else []
    return (
        f"{group['model']} over link {group['link']}: {readable(group['placement'])}, "
        + ", ".join(
            [
                group["backend"],
                f"batch {group['batch']}",
                f"window {group['window']}",
                *further,
                *special,
            ]
        )
    )

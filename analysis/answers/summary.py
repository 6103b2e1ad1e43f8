"""The answer of a whole run in one sentence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from analysis.answers.splitting import UNKNOWN, UNSURE
from analysis.tables import front
from paretopipe_worker.plan.labels import USUAL, circumstances, readable

_ALWAYS = ("model", "link")


def sentence(verdicts: Sequence[Mapping[str, Any]]) -> str:
    """Whether splitting pays in a run, and where most.

    Parameters
    ----------
    verdicts
        As :func:`analysis.answers.splitting.verdicts` returns them.

    Returns
    -------
    One sentence. Of several cases it names the one in which splitting brings most or, where it
    pays in none, loses least.
    """
    told = [row for row in verdicts if row["gains"]]
    if not told:
        reasons = dict.fromkeys(str(row["text"]) for row in verdicts)
        return f"{_upper('; '.join(reasons) or UNKNOWN)}."
    named = dict(zip(map(id, told), short_titles(told), strict=True))
    if len(told) == 1:
        return f"{named[id(told[0])]}: {told[0]['text']}."
    paying = [row for row in told if "better" in _by_verdict(row)]
    open_ = [row for row in told if row not in paying and "open" in _by_verdict(row)]
    if paying:
        start = f"Splitting pays in {len(paying)} of {len(told)} cases"
        found = [(gain["ratio"], row, gain) for row, gain in _better(paying)]
        where = ", most for"
    else:
        start = f"Splitting does not pay in any of {len(told)} cases"
        start += " for certain" if open_ else ""
        found = [(gain["ratio"], row, gain) for row in told for gain in row["gains"].values()]
        where = "; it comes nearest for"
    counts = {"not resolved": len(open_), "not known": len(verdicts) - len(told)}
    aside = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    start += f" ({aside})" if aside else ""
    _, row, gain = max(found, key=lambda each: each[0])
    note = UNSURE if gain["probability"] is None else ""
    return f"{start}{where} {named[id(row)]}: {gain['clause']}{note}."


def short_titles(groups: Iterable[Mapping[str, Any]]) -> list[str]:
    """What each group of points is, by its model, its link, and what else differs among them."""
    known = list(groups)
    differ = [name for name in front.GROUP if len({row.get(name) for row in known}) > 1]
    return [_short(row, [name for name in differ if name not in _ALWAYS]) for row in known]


def _short(group: Mapping[str, Any], differ: Sequence[str]) -> str:
    """One group's title."""
    special = [name for name in differ if name in front.CIRCUMSTANCES]
    words = [_worded(name, group[name]) for name in differ if name not in special]
    told: list[Any] = [
        group[name] if name in special else USUAL[name] for name in front.CIRCUMSTANCES
    ]
    words += circumstances(*told)
    # The usual circumstance needs a name where others are beside it.
    words += [
        str(group[name])
        for name in special
        if name in ("wire", "runtimes") and group[name] == USUAL[name]
    ]
    return ", ".join([f"{group['model']} over link {group['link']}", *words])


def _worded(name: str, value: object) -> str:
    """One condition in words."""
    return f"{name} {value}" if name in ("batch", "window") else readable(str(value))


def _by_verdict(row: Mapping[str, Any]) -> list[str]:
    """The verdicts on one group, by objective."""
    return [gain["verdict"] for gain in row["gains"].values()]


def _better(rows: Iterable[Mapping[str, Any]]) -> Iterator[tuple[Mapping[str, Any], Any]]:
    """The gains that a cut brings for certain, or by what was measured once."""
    for row in rows:
        for gain in row["gains"].values():
            if gain["verdict"] == "better":
                yield row, gain


def _upper(text: str) -> str:
    """The text with a capital letter."""
    return text[:1].upper() + text[1:]

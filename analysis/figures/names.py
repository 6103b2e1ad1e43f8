"""How figures call the splits of points: in short, and by the hosts that compute."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from analysis.figures.labels import shorten
from paretopipe_worker.cuts import FIRST, LAST
from paretopipe_worker.plan.labels import busy, cuts_of, everything_on, hosts_of, split_label


def called(points: pd.DataFrame) -> pd.Series:
    """The name of each point's split.

    Its cuts are shortened. An endpoint is called by the host that computes all. Where a host
    computes nothing, the name says so instead of naming a cut twice or an end of the model.

    Parameters
    ----------
    points
        Rows with the columns split and placement; all of a figure, so that names stay different.
    """
    short = shortened(points["split"])
    pairs = zip(points["split"], points["placement"], strict=True)
    names = [_name(split, placement, short) for split, placement in pairs]
    return pd.Series(names, index=points.index, dtype="str")


def shortened(splits: Iterable[str]) -> dict[str, str]:
    """Short names of all cuts in some splits, endpoints left out."""
    cuts = dict.fromkeys(cut for split in splits for cut in cuts_of(split))
    return shorten([cut for cut in cuts if cut not in (FIRST, LAST)])


def sole(points: pd.DataFrame) -> pd.Series:
    """The rank that computes everything, null where several hosts share the work."""
    ranks = []
    for split, placement in zip(points["split"], points["placement"], strict=True):
        hosts = hosts_of(placement)
        at_work = busy(cuts_of(split), hosts)
        ranks.append(hosts.index(at_work[0]) if len(at_work) == 1 else pd.NA)
    return pd.Series(ranks, index=points.index, dtype="Int64")


def _name(split: str, placement: str, short: dict[str, str]) -> str:
    """The name of one split."""
    cuts, hosts = cuts_of(split), hosts_of(placement)
    if endpoint := everything_on(cuts, hosts):
        return endpoint
    label = split_label(dict.fromkeys(short[cut] for cut in cuts if cut in short))
    idle = [host for host in hosts if host not in busy(cuts, hosts)]
    return f"{label} (no {', '.join(idle)})" if idle else label

"""Marks of measured points and replicates: reasons to doubt their figures."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from analysis.measures.sharing import LEAST_SHARE


def uncertified(measured: pd.DataFrame) -> pd.Series:
    """Those whose link was not what was asked for, by its certificate."""
    return _true(measured["link_certified"].eq(False))


def counted(measured: pd.DataFrame, *, all_links: bool) -> pd.DataFrame:
    """Those that count: only those whose link was as asked for, unless `all_links` is true."""
    return measured if all_links else measured[~uncertified(measured)]


def late(measured: pd.DataFrame) -> pd.Series:
    """Those during which a relay that shapes the link was late."""
    return _true(measured["link_late"].eq(True))


def disturbed(measured: pd.DataFrame) -> pd.Series:
    """Those measured while a host was outside its band."""
    return _true(measured["disturbed"].eq(True))


def apart(measured: pd.DataFrame) -> pd.Series:
    """Those of several sources that were not measured together for long enough."""
    return measured["overlap_share"].lt(LEAST_SHARE)


def _true(flags: pd.Series) -> pd.Series:
    """Flags, false where one is null."""
    return flags.fillna(False).astype("bool")


MARKS: dict[str, Callable[[pd.DataFrame], pd.Series]] = {
    "uncertified": uncertified,
    "late": late,
    "disturbed": disturbed,
    "apart": apart,
}
"""All marks by name. Only points that are uncertified are left off fronts."""

MEANING = {
    "uncertified": "have a link that was not as asked for",
    "late": "were measured while a relay was late",
    "disturbed": "were measured on a disturbed host",
    "apart": "were measured while another source was not for part of the time",
}
"""What each mark says of points, replicates or pairs of them, in words."""

"""What a measured point or replicate is marked with: reasons to doubt what it says."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd


def uncertified(measured: pd.DataFrame) -> pd.Series:
    """Which points' or replicates' links were not what was asked for, by their certificate."""
    return _true(measured["link_certified"].eq(False))


def late(measured: pd.DataFrame) -> pd.Series:
    """Those during which a relay that shapes the link was late."""
    return _true(measured["link_late"].eq(True))


def disturbed(measured: pd.DataFrame) -> pd.Series:
    """Those measured on a host that was outside its band."""
    return _true(measured["disturbed"].eq(True))


def _true(flags: pd.Series) -> pd.Series:
    """Flags, false where one is null."""
    return flags.fillna(False).astype("bool")


MARKS: dict[str, Callable[[pd.DataFrame], pd.Series]] = {
    "uncertified": uncertified,
    "late": late,
    "disturbed": disturbed,
}
"""All marks by name, the gravest first: only those that are uncertified are left off fronts."""

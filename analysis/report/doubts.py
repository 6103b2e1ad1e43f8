"""How the links and the hosts were while a run was measured, and what failed, as tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from analysis.figures.captions import link_title
from analysis.measures import marks

_PROBED = {
    "round trip (ms)": ("link_round_trip_before_ms", "link_round_trip_after_ms"),
    "goodput (Mbit/s)": ("link_goodput_before_mbit", "link_goodput_after_mbit"),
    "goodput back (Mbit/s)": ("link_return_goodput_before_mbit", "link_return_goodput_after_mbit"),
}
_SHOWN = 12
_NONE = "-"


def certificates(points: pd.DataFrame) -> list[dict[str, Any]]:
    """What the stages measured of each link, beside what was asked of it.

    Returns
    -------
    For each link ``link``, ``measured`` (a range for each kind of probe, by its title), ``by``
    (who shaped), ``verdict``, ``tone`` (``good``, ``bad`` or none) and ``off``, the reasons why it
    was not as asked for.
    """
    found = []
    for link, rows in points.groupby("link", sort=False):
        off = rows[marks.uncertified(rows)]
        held = rows["link_certified"].eq(True).fillna(False)
        told = rows["link_certified"].notna()
        verdict = "nothing was asked"
        if told.any():
            verdict = f"as asked at {held.sum()} of {told.sum()} points"
        found.append(
            {
                "link": link_title(points, str(link)),
                "measured": {name: _range(rows[list(of)]) for name, of in _PROBED.items()},
                "by": ", ".join(rows["link_engine"].dropna().unique()) or "unknown",
                "verdict": verdict,
                "tone": "bad" if len(off) else "good" if told.any() else "",
                "off": list(dict.fromkeys(off["link_certificate"].dropna()))[:_SHOWN],
            }
        )
    return found


def _range(values: pd.DataFrame) -> str:
    """The least and the greatest value, as one figure where they read alike."""
    known = values.stack().dropna()
    if known.empty:
        return "not measured"
    low, high = (f"{value:.3g}" for value in (known.min(), known.max()))
    low, high = (f"{float(text):,.6g}" for text in (low, high))
    return low if low == high else f"{low} to {high}"


def hosts(stages: pd.DataFrame) -> dict[str, Any]:
    """How each host was at its worst in the legs that count.

    Returns
    -------
    ``columns``, what any host tells; ``rows``, each host with a text for every column; and
    ``untold``, what no host tells.
    """
    found = {str(host): _worst(rows) for host, rows in stages.groupby("host", sort=False)}
    names = list(dict.fromkeys(name for told in found.values() for name in told))
    columns = [name for name in names if any(told[name] != _NONE for told in found.values())]
    return {
        "columns": columns,
        "rows": [(host, [told[name] for name in columns]) for host, told in found.items()],
        "untold": [name.lower() for name in names if name not in columns],
    }


def _worst(rows: pd.DataFrame) -> dict[str, str]:
    """One host's worst figures by what they are."""
    waits = rows[["wall_over_cpu", "loaded_wall_over_cpu"]].max().max()
    return {
        "Stretched": _figure(rows["device_emulated"].max(), "{:g} times"),
        "Wall over CPU time": _figure(waits, "{:.2f}"),
        "Cores used by others": _figure(rows["others_cpu"].max(), "{:.2f}"),
        "Least frequency (MHz)": _figure(rows["cpu_mhz_min"].min(), "{:.0f}"),
        "Governor": ", ".join(rows["governor"].dropna().unique()) or _NONE,
        "Hottest (°C)": _figure(rows["temperature_c_max"].max(), "{:.0f}"),
        "Throttled": _throttled(rows["throttled"]),
        "Swapped pages": _figure(rows["swapped_pages"].sum(min_count=1), "{:.0f}"),
        "Peak memory (MiB)": _figure(rows["peak_rss_bytes"].max() / 2**20, "{:.0f}"),
    }


def _throttled(told: pd.Series) -> str:
    """What the firmware did; ``no`` only where every leg says so."""
    known = dict.fromkeys(word for text in told.dropna() for word in str(text).split(", "))
    said = [word for word in known if word != "no"]
    return ", ".join(said) or ("no" if known else _NONE)


def _figure(value: Any, form: str) -> str:
    """A figure, or a dash where there is none."""
    return _NONE if pd.isna(value) else form.format(float(value))


def disturbed(points: pd.DataFrame) -> dict[str, Any]:
    """Points measured on a disturbed host, and why; the first of them by name."""
    rows = points[marks.disturbed(points)]
    lines = [
        f"{row['split']} over {row['link']} ({row['model']}): {row['disturbances']}"
        for row in rows.head(_SHOWN).to_dict("records")
    ]
    return {"count": len(rows), "lines": lines, "more": max(0, len(rows) - _SHOWN)}


def failures(points: pd.DataFrame) -> list[dict[str, Any]]:
    """Why points have no figures: each reason once, with its points."""
    lost = points[points["status"].isin(["failed", "missing"])]
    return list(_by_reason(lost))


def _by_reason(lost: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Each reason with how many points it is of, and the first of them."""
    reasons = lost["reason"].fillna("no session has tried it yet")
    for reason, rows in lost.groupby(reasons, sort=False):
        where = [
            f"{row['split']} over {row['link']} ({row['model']}, {row['backend']})"
            for row in rows.head(_SHOWN).to_dict("records")
        ]
        yield {
            "reason": reason,
            "count": len(rows),
            "points": where,
            "more": max(0, len(rows) - _SHOWN),
        }

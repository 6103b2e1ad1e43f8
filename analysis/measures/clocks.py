"""Clocks of the hosts: how far each is ahead of the source's, at any time of a session.

Before and after a session and around each of its points the source exchanges messages with every
other rank on the control path, which is never shaped. The fastest exchange shows how far the other
clock is ahead, to within half of its time (Cristian, "Probabilistic clock synchronization",
Distributed Computing 3, 1989). From one comparison to the next, a *piece*, the other clock is taken
to go along a straight line. Between two values, each off by at most the error of its exchange, that
line is off by at most the larger. What else it is off by is what the clock strayed from the line.

For that, three things are looked at by themselves: ``CLOCK_MONOTONIC``, whose times the records
have, against ``CLOCK_MONOTONIC_RAW``, on both hosts, since NTP slews the former; and both hosts'
``CLOCK_MONOTONIC_RAW`` against each other, which only crystals drive. The lines of all three begin
and end with the piece, so that the errors of them add up to that of both ``CLOCK_MONOTONIC``.

Let a piece last T, and let the rate of one of the three change by d at a share x of it, until after
its end. Then it strays from its line by ``d x (1 - x) T``, while the rate over the piece differs
from that of the piece before by ``d (1 - x)``: T times that difference is no less. The same holds,
with the piece after, for a change that ends in the piece. One that begins and ends in it moves the
clock by T times the difference, and no clock strays farther than it was moved. So T times the
larger difference to the rates beside is the bound of a piece with one slew; two that undo each
other before the next comparison would not be seen. A difference that the errors of the comparisons
explain says nothing, and crystals are taken to be as steady as they show.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.run import Run
from paretopipe_worker.records.clocks import Exchange, Reading
from paretopipe_worker.records.lines import CONTROLLER_RANK

MOST_DRIFT_PPM = 200.0
"""Above this, and what the exchanges leave open, no two crystals drift apart."""

MOST_STEP_S = 1.0
"""By how much a host's wall clock may move against its monotonic one during a session."""

LEAST_COMPARISONS = 3
"""Two pieces, of which each shows whether the other was steady."""

_KEYS = ["session", "attempt", "rank"]
_SESSION = ("clock_offset_before_ms", "clock_offset_after_ms", "clock_drift_ppm")
_PIECE = ("drift_ppm", "bound_ms", "strayed_ms")


class _Knot(NamedTuple):
    """What the clocks of two hosts showed at one moment: where two pieces meet.

    `error_ns` is what the exchange leaves open of the offset, `read_ns` what reading two clocks of
    one host does.
    """

    when: str
    source_ns: int
    source_raw_ns: int
    theirs_ns: int
    theirs_raw_ns: int
    error_ns: float
    read_ns: float


def comparisons(run: Run) -> pd.DataFrame:
    """Compare each rank's clock with the source's, by attempt at a session.

    Returns
    -------
    One row per session, attempt, rank other than 0 and piece: ``source_ns`` and ``theirs_ns``,
    which both clocks showed when it began; ``drift_ppm``, how much faster the rank's went in it;
    ``bound_ms``, the error of offsets in it, of which ``strayed_ms`` is because the clocks may have
    strayed from a straight line; ``clock_note``: why times of both must not be subtracted, null
    where they may. The last piece of each has no end, and so such a note. On all rows of a rank
    the same: ``clock_offset_before_ms``, ``clock_offset_after_ms``: how far the rank's clock was
    ahead before and after the session; ``clock_drift_ppm`` in between.
    """
    steps = _steps(run)
    found: dict[tuple[str, int, int], list[_Knot]] = {}
    for row in run.clocks[run.clocks["rank"] == 0].to_dict("records"):
        if row["exchanges"]:
            knots = found.setdefault((row["session"], row["attempt"], row["other"]), [])
            knots.append(_knot(row["when"], row["exchanges"]))
    stages = run.sessions[run.sessions["rank"] > 0]
    rows = []
    for key in stages[_KEYS].itertuples(index=False, name=None):
        note = steps.get(key[:2])
        for piece in _pieces(found.get(key, [])):
            told = {"clock_note": piece["clock_note"] or note}
            rows.append(dict(zip(_KEYS, key, strict=True)) | piece | told)
    names = [*_KEYS, "source_ns", "theirs_ns", *_PIECE, *_SESSION, "clock_note"]
    return pd.DataFrame.from_records(rows, columns=names).astype(
        dict.fromkeys(("attempt", "rank", "source_ns", "theirs_ns"), "int64")
        | dict.fromkeys((*_PIECE, *_SESSION), "float64")
        | dict.fromkeys(("session", "clock_note"), "str")
    )


def ahead(
    rows: pd.DataFrame, rank: pd.Series, stamps_ns: pd.Series, compared: pd.DataFrame
) -> pd.DataFrame:
    """How far a rank's clock was ahead of the source's at time stamps of its own.

    Parameters
    ----------
    rows
        Has the columns session and attempt.
    rank, stamps_ns
        Whose time stamp, and the stamp, for each of them.
    compared
        What :func:`comparisons` returns.

    Returns
    -------
    Column ``ms``, 0 for the source, and those of `compared` for the piece in which the stamp is,
    null where there is none.
    """
    wanted = rows[_KEYS[:2]].assign(
        rank=rank.astype("Int64").fillna(-1),
        stamp_ns=stamps_ns.astype("Int64").fillna(-1),
        row=range(len(rows)),
    )
    wanted = wanted.astype(dict.fromkeys(("attempt", "rank", "stamp_ns"), "int64"))
    found = pd.merge_asof(
        wanted.astype({"session": "str"}).sort_values("stamp_ns"),
        compared.sort_values("theirs_ns"),
        left_on="stamp_ns",
        right_on="theirs_ns",
        by=_KEYS,
    )
    found = found.sort_values("row").set_axis(rows.index)
    source = found["rank"] == 0
    # Differences of whole numbers first: a double does not hold a clock's nanoseconds.
    since_ns = (found["stamp_ns"] - found["theirs_ns"].astype("Int64")).astype("float64")
    drift = found["drift_ppm"] * 1e-6
    apart_ns = found["theirs_ns"].astype("Int64") - found["source_ns"].astype("Int64")
    ahead_ns = apart_ns.astype("float64") + since_ns * drift / (1 + drift)
    return found.assign(ms=(ahead_ns / 1e6).mask(source, 0.0)).drop(columns=[*_KEYS, "row"])


def _knot(when: str, exchanges: Sequence[Exchange]) -> _Knot:
    """What the fastest exchange shows."""
    knots = []
    for exchange in exchanges:
        sent, theirs, received = exchange.sent, exchange.theirs, exchange.received
        width_ns = [after - before for before, _, after in (sent, theirs, received)]
        error_ns = (received[1] - sent[1] + max(width_ns[0], width_ns[2]) + width_ns[1]) / 2
        knots.append(
            _Knot(
                when,
                (_middle(sent) + _middle(received)) // 2,
                (sent[1] + received[1]) // 2,
                _middle(theirs),
                theirs[1],
                error_ns,
                max(width_ns) / 2,
            )
        )
    return min(knots, key=lambda knot: knot.error_ns)


def _middle(reading: Reading) -> int:
    """What the first clock of a reading showed when the other was read."""
    return (reading[0] + reading[2]) // 2


def _pieces(knots: list[_Knot]) -> list[dict[str, Any]]:
    """From each comparison to the next, in order; before the first and from the last on as well."""
    pieces = [_open(0, 0, "the clocks were not compared before the point")]
    if any(
        later.source_ns <= knot.source_ns
        or later.source_raw_ns <= knot.source_raw_ns
        or later.theirs_ns <= knot.theirs_ns
        for knot, later in itertools.pairwise(knots)
    ):
        # It cannot be told in which piece a time is.
        pieces = [_open(0, 0, "a clock was set: it went backwards between two comparisons")]
    elif knots:
        lacking = "the clocks were not compared after the point"
        pieces += [*_closed(knots), _open(knots[-1].source_ns, knots[-1].theirs_ns, lacking)]
    return [piece | _over_session(knots) for piece in pieces]


def _open(source_ns: int, theirs_ns: int, note: str) -> dict[str, Any]:
    """A piece of which it is not known how far the clocks are apart in it."""
    begin = {"source_ns": source_ns, "theirs_ns": theirs_ns, "clock_note": note}
    return dict.fromkeys(_PIECE) | begin


def _over_session(knots: list[_Knot]) -> dict[str, float | None]:
    """Offsets before and after a session, and the drift from one to the other."""
    ends = {knot.when: knot for knot in knots if knot.when in ("before", "after")}
    row: dict[str, float | None] = dict.fromkeys(_SESSION)
    for when, knot in ends.items():
        row[f"clock_offset_{when}_ms"] = (knot.theirs_ns - knot.source_ns) / 1e6
    if len(ends) == 2:
        elapsed_ns = ends["after"].source_ns - ends["before"].source_ns
        theirs_ns = ends["after"].theirs_ns - ends["before"].theirs_ns
        row["clock_drift_ppm"] = 1e6 * (theirs_ns - elapsed_ns) / elapsed_ns
    return row


def _closed(knots: list[_Knot]) -> Iterator[dict[str, Any]]:
    """The pieces between comparisons."""
    lasted = np.diff([float(knot.source_raw_ns - knots[0].source_raw_ns) for knot in knots])
    error = np.array([knot.error_ns for knot in knots])
    read = np.array([knot.read_ns for knot in knots])
    between_hosts = np.diff(_since([knot.theirs_raw_ns - knot.source_raw_ns for knot in knots]))
    source = np.diff(_since([knot.source_ns - knot.source_raw_ns for knot in knots]))
    theirs = np.diff(_since([knot.theirs_ns - knot.theirs_raw_ns for knot in knots]))
    strayed = _strayed(lasted, between_hosts, error)
    strayed += _strayed(lasted, source, read) + _strayed(lasted, theirs, read)
    for number, (knot, later) in enumerate(itertools.pairwise(knots)):
        elapsed_ns = later.source_ns - knot.source_ns
        moved_ns, allowed_ns = float(between_hosts[number]), knot.error_ns + later.error_ns
        allowed_ns += MOST_DRIFT_PPM * 1e-6 * float(lasted[number])
        note = None
        if abs(moved_ns) > allowed_ns:
            note = (
                f"a clock was set: the offset changed by {moved_ns / 1e6:.3f} ms in "
                f"{elapsed_ns / 1e9:.0f} s, drift allows {allowed_ns / 1e6:.3f}"
            )
        elif len(knots) < LEAST_COMPARISONS:
            note = f"the clocks were compared {len(knots)} times, {LEAST_COMPARISONS} are needed"
        yield {
            "source_ns": knot.source_ns,
            "theirs_ns": knot.theirs_ns,
            "drift_ppm": 1e6 * ((later.theirs_ns - knot.theirs_ns) / elapsed_ns - 1),
            "bound_ms": (max(knot.error_ns, later.error_ns) + strayed[number]) / 1e6,
            "strayed_ms": strayed[number] / 1e6,
            "clock_note": note,
        }


def _since(offsets_ns: list[int]) -> npt.NDArray[np.float64]:
    """How far offsets moved since the first; a double does not hold a clock's nanoseconds."""
    return np.array([offset - offsets_ns[0] for offset in offsets_ns], np.float64)


def _strayed(
    lasted: npt.NDArray[np.float64],
    moved: npt.NDArray[np.float64],
    error: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """How far a clock may have strayed from a straight line in each piece.

    Parameters
    ----------
    lasted, moved
        How long each piece was, and how far the clock moved against another in it.
    error
        What is left open of where it was, at each comparison.
    """
    rate, left_open = moved / lasted, (error[:-1] + error[1:]) / lasted
    changed = np.abs(np.diff(rate)) - left_open[:-1] - left_open[1:]
    changed = np.maximum(0.0, changed)
    beside: npt.NDArray[np.float64] = np.maximum(np.r_[0.0, changed], np.r_[changed, 0.0])
    return lasted * beside


def _steps(run: Run) -> dict[tuple[str, int], str]:
    """Attempts during which a host's wall clock was set, and by how much."""
    stages = run.sessions[run.sessions["rank"] != CONTROLLER_RANK]
    seconds = stages["wall_clock_step_ns"].astype("float64") / 1e9
    stepped = stages.assign(step_s=seconds)[seconds.abs() > MOST_STEP_S]
    said: dict[tuple[str, int], str] = {}
    for row in stepped.to_dict("records"):
        text = f"the wall clock of {row['host']} was set by {row['step_s']:+.1f} s"
        key = row["session"], row["attempt"]
        said[key] = f"{said[key]}, {text}" if key in said else text
    return said

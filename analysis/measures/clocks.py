"""Clocks of the hosts: how far each is ahead of the source's, at any time of a session.

Before and after a session and around each of its points the source exchanges messages with every
other rank on the control path, which is never shaped. The fastest exchange shows how far the other
clock is ahead, to within half the duration of the exchange (Cristian, "Probabilistic clock
synchronization", Distributed Computing 3, 1989). The time from one comparison to the next is a
*piece*. Within a piece the offset is interpolated by a straight line between its two ends. Two
errors remain. The ends are off by the errors of their exchanges, which makes the line off by at
most the larger of the two. And the clock may have strayed from the line.

To bound how far it strayed, three pairs of clocks are examined separately. On each of the two hosts
``CLOCK_MONOTONIC``, which the records use and which NTP slews, is compared with
``CLOCK_MONOTONIC_RAW``, which nothing corrects. And the two hosts' ``CLOCK_MONOTONIC_RAW`` are
compared with each other; their difference depends on the crystals alone. The lines of all three
begin and end with the piece, so that their errors add up to the error between the two
``CLOCK_MONOTONIC``.

Let a piece last T, and let the rate of one pair change by d after a share x of the piece, until
after its end. The pair then strays from its line by ``d x (1 - x) T`` at most, while its mean rate
differs from that of the piece before by ``d (1 - x)``. T times that difference is an upper bound.
The same holds, with the piece after, for a change that ends within the piece. A change that begins
and ends within the piece moves the clock by T times the difference, and the clock strays no farther
than it was moved. So for a piece with one slew the bound is T times the larger difference to the
rates of the pieces beside it. Two slews that cancel each other before the next comparison stay
unseen. A difference that the errors of the comparisons can explain counts as none.
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

MOST_DRIFT_PPM = 200.0
"""Two crystals do not drift apart faster than this, apart from the errors of the exchanges."""

MOST_STEP_S = 1.0
"""How far a host's wall clock may move against its monotonic clock during a session."""

LEAST_COMPARISONS = 3
"""Comparisons that make two pieces, each of which shows whether the other was steady."""

_KEYS = ["session", "attempt", "rank"]
_SESSION = ("clock_offset_before_ms", "clock_offset_after_ms", "clock_drift_ppm")
_PIECE = ("drift_ppm", "bound_ms", "strayed_ms")


class _Knot(NamedTuple):
    """What the clocks of two hosts showed at one moment, where two pieces meet.

    `error_ns` is the error of the offset that the exchange leaves, `read_ns` the error of reading
    the two clocks of one host.
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
    One row per session, attempt, rank other than 0 and piece. ``source_ns`` and ``theirs_ns``: what
    both clocks showed when the piece began. ``drift_ppm``: how much faster the rank's clock was.
    ``bound_ms``: the bound of the error of offsets in the piece, and ``strayed_ms`` the part of it
    by which the clocks may have strayed from a straight line. ``clock_note``: why times of the two
    clocks must not be subtracted, null where they may be; the last piece has no end, and therefore
    has such a note. The following are the same on all rows of a rank: ``clock_offset_before_ms``
    and ``clock_offset_after_ms``, how far the rank's clock was ahead before and after the session,
    and ``clock_drift_ppm`` in between.
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
        For each row the rank, and the time stamp by that rank's clock.
    compared
        What :func:`comparisons` returns.

    Returns
    -------
    Column ``ms``, which is 0 for the source, and the columns of `compared` for the piece that
    contains the stamp; null where there is no such piece.
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
    # Whole numbers are subtracted first, since a double cannot hold a clock's nanoseconds.
    since_ns = (found["stamp_ns"] - found["theirs_ns"].astype("Int64")).astype("float64")
    drift = found["drift_ppm"] * 1e-6
    apart_ns = found["theirs_ns"].astype("Int64") - found["source_ns"].astype("Int64")
    ahead_ns = apart_ns.astype("float64") + since_ns * drift / (1 + drift)
    return found.assign(ms=(ahead_ns / 1e6).mask(source, 0.0)).drop(columns=[*_KEYS, "row"])


def _knot(when: str, exchanges: Sequence[Exchange]) -> _Knot:
    """What the fastest of several exchanges shows."""
    best = min(exchanges, key=_error_ns)
    sent, theirs, received = best.sent, best.theirs, best.received
    return _Knot(
        when,
        (_middle(sent) + _middle(received)) // 2,
        (sent[1] + received[1]) // 2,
        _middle(theirs),
        theirs[1],
        _error_ns(best),
        max(after - before for before, _, after in (sent, theirs, received)) / 2,
    )


def _error_ns(exchange: Exchange) -> float:
    """By how much the offset that an exchange shows may be off."""
    sent, theirs, received = exchange.sent, exchange.theirs, exchange.received
    own_ns = max(sent[2] - sent[0], received[2] - received[0])
    return (received[1] - sent[1] + own_ns + theirs[2] - theirs[0]) / 2


def _middle(reading: Reading) -> int:
    """What the first clock of a reading showed when the second was read."""
    return (reading[0] + reading[2]) // 2


def _pieces(knots: list[_Knot]) -> list[dict[str, Any]]:
    """All pieces in order, those before the first and after the last comparison included."""
    pieces = [_open(0, 0, "the clocks were not compared before the point")]
    if any(
        later.source_ns <= knot.source_ns
        or later.source_raw_ns <= knot.source_raw_ns
        or later.theirs_ns <= knot.theirs_ns
        for knot, later in itertools.pairwise(knots)
    ):
        # No time can be assigned to a piece.
        pieces = [_open(0, 0, "a clock was set: it went backwards between two comparisons")]
    elif knots:
        lacking = "the clocks were not compared after the point"
        pieces += [*_closed(knots), _open(knots[-1].source_ns, knots[-1].theirs_ns, lacking)]
    return [piece | _over_session(knots) for piece in pieces]


def _open(source_ns: int, theirs_ns: int, note: str) -> dict[str, Any]:
    """A piece in which the offset of the clocks is unknown."""
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
    """How far offsets moved since the first: small enough for a double, unlike the offsets."""
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
        The duration of each piece, and how far the clock moved against another in it.
    error
        The error of each comparison.
    """
    rate, left_open = moved / lasted, (error[:-1] + error[1:]) / lasted
    changed = np.abs(np.diff(rate)) - left_open[:-1] - left_open[1:]
    changed = np.maximum(0.0, changed)
    beside: npt.NDArray[np.float64] = np.maximum(np.r_[0.0, changed], np.r_[changed, 0.0])
    return lasted * beside


def _steps(run: Run) -> dict[tuple[str, int], str]:
    """The attempts during which a host's wall clock was set, and by how much."""
    stages = run.stages
    seconds = stages["wall_clock_step_ns"].astype("float64") / 1e9
    stepped = stages.assign(step_s=seconds)[seconds.abs() > MOST_STEP_S]
    said: dict[tuple[str, int], str] = {}
    for row in stepped.to_dict("records"):
        text = f"the wall clock of {row['host']} was set by {row['step_s']:+.1f} s"
        key = row["session"], row["attempt"]
        said[key] = f"{said[key]}, {text}" if key in said else text
    return said

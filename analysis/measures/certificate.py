"""Whether a link was what was asked for: a session's probes against the link's profile."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from analysis.measures import chance
from analysis.run import Run
from paretopipe_worker.link.conditions import Condition
from paretopipe_worker.link.profiles import LinkSpec
from paretopipe_worker.link.traces import Timetable, outage_s
from paretopipe_worker.plan.plan import Plan
from paretopipe_worker.plan.predict import WIRE_PER_PAYLOAD
from paretopipe_worker.records.probes import Datagrams, Transfer

WHEN = ("before", "after")
LATE_MS = 2.0
"""Lateness of a relay, at the 99th percentile, above which a leg is marked."""

_ROUND_TRIP_MS, _EARLY_MS = 3.0, 0.5
_TRANSFER_MS = 1.0
_SHARE = 0.05
_GOODPUT_SHARE = 0.10
_SDS = 3.0
_SMALL_FRAME_BITS = 154 * 8
"""A small message of a probe as a frame: 64 bytes of payload, 24 and 66 bytes of headers."""


def paths_of(plan: Plan, session: str) -> dict[int | None, tuple[Condition, ...]]:
    """What was asked of each hop of a session's ring, the way back last.

    Returns
    -------
    The path of each certified segment of the trace; of a link that follows none, one path under
    the key None.
    """
    asked = plan.session(session)
    parts = plan.link(asked.link).probed
    return {number: part.forward_path(len(asked.placement)) for number, part in parts.items()}


def certificates(run: Run) -> pd.DataFrame:
    """What was measured of the link and the verdict, by attempt at a session and point.

    The verdict on a point rests on the last measurement of the link before it and on the first
    after it.

    Returns
    -------
    Columns session, attempt, point and :data:`COLUMNS`.
    """
    stages = run.stages
    probes = run.probes[run.probes["rank"] == 0]
    rows = []
    for (session, attempt), files in stages.groupby(["session", "attempt"]):
        taken = probes[(probes["session"] == session) & (probes["attempt"] == attempt)]
        shaped = {
            "link_engine": engines(files["link_engine"]),
            "link_emulated": bool(files["link_emulated"].any()),
        }
        for points, probed in _stretches(files.sort_values("rank")["points"].iloc[0], taken):
            found = _certificate(run.plan, str(session), probed) | shaped
            about = {"session": session, "attempt": attempt} | found
            rows += [about | {"point": point} for point in points]
    names = ["session", "attempt", "point", *COLUMNS]
    return pd.DataFrame.from_records(rows, columns=names).astype(
        {"link_certified": "boolean", "link_emulated": "boolean"}
        | {"link_engine": "str", "link_certificate": "str"}
        | {name: "float64" for name in COLUMNS if name.endswith(("_ms", "_mbit"))}
    )


def engines(told: pd.Series) -> str:
    """The engines that shaped, as a session's hosts recorded; ``none`` where no host shaped."""
    return ", ".join(sorted(set(told) - {"none"})) or "none"


def _stretches(
    listed: Sequence[str], taken: pd.DataFrame
) -> Iterator[tuple[list[str], pd.DataFrame]]:
    """The points between each two measurements of an attempt's path, and these measurements."""
    places = sorted({0, *taken["after_points"], len(listed)})
    for begin, end in itertools.pairwise(places):
        yield list(listed[begin:end]), around(taken, begin)


def around(taken: pd.DataFrame, walked: int) -> pd.DataFrame:
    """The last probes of an attempt before a point, and the first after it.

    Parameters
    ----------
    walked
        How many points were walked before that point.

    Returns
    -------
    Their rows, with the column ``when``: ``before`` or ``after``.
    """
    places = taken["after_points"]
    ends = [places[places <= walked].max(), places[places > walked].min()]
    kept = taken[places.isin(ends)]
    return kept.assign(when=np.where(kept["after_points"] <= walked, *WHEN))


def _certificate(plan: Plan, session: str, taken: pd.DataFrame) -> dict[str, Any]:
    """What two measurements of a path show, and the verdict on it."""
    paths = paths_of(plan, session)
    row: dict[str, Any] = {}
    for when in WHEN:
        found = probes_of(taken, None).get(when)
        path = paths.get(None, ())
        row |= {f"link_{name}": value for name, value in _figures(found, path, when)}
    off = list(_all_segments(taken, paths, _idle_slows(plan)))
    asked = any(condition.shaped for path in paths.values() for condition in path)
    row["link_certified"] = not off if asked else None
    row["link_certificate"] = "; ".join(off) if asked and off else None
    return row


def probes_of(taken: pd.DataFrame, segment: int | None) -> dict[str, dict[Any, Any]]:
    """The probes of one segment of a trace, or of a link that follows none (None).

    `taken` are the probes around a point, see :func:`around`. The keys are ``before`` and
    ``after``.
    """
    numbers = taken["segment"]
    of = taken[numbers.isna() if segment is None else numbers.eq(segment).fillna(False)]
    return {str(row["when"]): row for row in of.to_dict("records")}


def _all_segments(
    taken: pd.DataFrame, paths: Mapping[int | None, Sequence[Condition]], idle_slows: bool
) -> Iterator[str]:
    """Each way in which the link was not what was asked for, in any segment."""
    for number, path in paths.items():
        off = _verdict(probes_of(taken, number), path, idle_slows)
        yield from (text if number is None else f"segment {number}: {text}" for text in off)


def _figures(
    probe: dict[Any, Any] | None, path: Sequence[Condition], when: str
) -> Iterator[tuple[str, float]]:
    """The measured columns of one probe."""
    trips = probe["round_trip_ns"] if probe else ()
    goodput = (probe["goodput_mbit"] if probe else ()) or (np.nan, np.nan)
    yield f"round_trip_{when}_ms", float(np.median(trips)) / 1e6 if trips else np.nan
    yield f"goodput_{when}_mbit", min(goodput[:-1])
    yield f"return_goodput_{when}_mbit", goodput[-1]
    gaps = [(abs(gap) / most, gap) for _, gap, most in _transfers(probe, path)] if probe else []
    yield f"transfer_off_{when}_ms", max(gaps)[1] if gaps else np.nan


COLUMNS = (
    *(f"link_{name}" for when in WHEN for name, _ in _figures(None, (), when)),
    "link_engine",
    "link_emulated",
    "link_certified",
    "link_certificate",
)


def _verdict(
    probes: dict[str, dict[Any, Any]], path: Sequence[Condition], idle_slows: bool
) -> Iterator[str]:
    """Each way in which the link was not what was asked for."""
    erratic = any(condition.erratic for condition in path)
    for when in WHEN:
        if when not in probes:
            yield f"not measured {when} the point"
            continue
        probe = probes[when]
        if erratic:
            found = list(_chances_off(probe["datagrams"], path))
        else:
            found = list(_steady_off(probe, path))
            found += [] if idle_slows else list(_single_off(probe, path))
        yield from (f"{text} {when} the point" for text in found)


def _steady_off(probe: dict[Any, Any], path: Sequence[Condition]) -> Iterator[str]:
    """Round trip and goodput out of tolerance."""
    trip_ms, asked_ms = float(np.median(probe["round_trip_ns"])) / 1e6, round_trip_ms(path)
    most_ms = max(_ROUND_TRIP_MS, _SHARE * asked_ms)
    if not -_EARLY_MS <= trip_ms - asked_ms <= most_ms:
        yield f"round trip {trip_ms:.1f} ms (asked: {asked_ms:.1f}, at most {most_ms:.1f} more)"
    for hop, (rate, condition) in enumerate(zip(probe["goodput_mbit"], path, strict=True)):
        if condition.rate_mbit is None:
            continue
        wanted = condition.rate_mbit / WIRE_PER_PAYLOAD
        if abs(rate - wanted) > _GOODPUT_SHARE * wanted:
            share = f"{_GOODPUT_SHARE:.0%}"
            yield f"goodput {_way(hop, path)} {rate:.3g} Mbit/s (asked: {wanted:.3g} ± {share})"


def _single_off(probe: dict[Any, Any], path: Sequence[Condition]) -> Iterator[str]:
    """Single transfers out of tolerance: the worst of each hop."""
    worst: dict[int, tuple[float, str]] = {}
    for part, gap, most in _transfers(probe, path):
        hop, kib = part.hop, part.bytes >> 10
        text = f"{kib} KiB {_way(hop, path)} {gap:+.1f} ms (allowed: ± {most:.1f})"
        if abs(gap) > most:
            worst[hop] = max(worst.get(hop, (0.0, "")), (abs(gap) / most, text))
    yield from (text for _, text in worst.values())


def _transfers(
    probe: dict[Any, Any], path: Sequence[Condition]
) -> Iterator[tuple[Transfer, float, float]]:
    """Single transfers over hops with a rate: by how much each is off, and what is allowed, in ms.

    A transfer is expected to take the measured round trip, which is judged by itself, and the time
    of its bytes at the rate. The median of the few transfers of one size counts.
    """
    trip_ms = float(np.median(probe["round_trip_ns"])) / 1e6
    for part in probe["transfers"]:
        rate = path[part.hop].rate_mbit
        if rate is not None:
            asked_ms = trip_ms + part.bytes * 8 * WIRE_PER_PAYLOAD / (rate * 1e3)
            gap_ms = float(np.median(part.ns)) / 1e6 - asked_ms
            yield part, gap_ms, max(_TRANSFER_MS, _SHARE * asked_ms)


def _chances_off(found: Datagrams | None, path: Sequence[Condition]) -> Iterator[str]:
    """Delay and loss of datagrams out of tolerance."""
    if found is None:
        yield "no datagrams were sent"
        return
    sent, times = found.sent, found.round_trip_ns
    expected = _simulated(tuple(path), sent[0], found.interval_ns)
    delay = expected.round_trip_ms
    most_ms = max(_ROUND_TRIP_MS, _SHARE * delay.mean) + _SDS * delay.sd
    median_ms = float(np.median(times)) / 1e6 if times else np.nan
    silent = [condition.outage for condition in path]
    # The median is NaN where nothing came back, which is wrong unless nothing was to.
    if not any(silent) and not abs(median_ms - delay.mean) <= most_ms:
        yield f"median delay {median_ms:.1f} ms (asked: {delay.mean:.1f} ± {most_ms:.1f})"
    for hop, (condition, lost) in enumerate(zip(path, expected.lost, strict=True)):
        if any(silent[:hop]) and not sent[hop]:
            continue  # Nothing was to reach this hop.
        asked = condition.mean_loss
        share = 1 - found.received[hop] / sent[hop] if sent[hop] else np.nan
        # A machine may drop one datagram even where the link loses none.
        most = max(_SDS * lost.sd, 1 / sent[0])
        if not abs(share - asked) <= most:
            yield f"loss {_way(hop, path)} {share:.1%} (asked: {asked:.1%} ± {most:.1%})"


@cache
def _simulated(path: tuple[Condition, ...], count: int, interval_ns: int) -> chance.Expected:
    """The simulation, which is the same for all sessions of a link."""
    return chance.simulate(path, count, interval_ns / 1e6)


def round_trip_ms(path: Sequence[Condition]) -> float:
    """Time of a small message around the ring: the delays, and its bits at the rates."""
    return sum(c.delay_ms + _SMALL_FRAME_BITS / ((c.rate_mbit or np.inf) * 1e3) for c in path)


def _way(hop: int, path: Sequence[Condition]) -> str:
    """A hop in words."""
    if hop == len(path) - 1:
        return "back"
    return "forward" if len(path) == 2 else f"rank {hop} to {hop + 1}"


def asked_of(link: LinkSpec, ranks: int, ring: int) -> dict[str, Any]:
    """What was asked of a link: in words, and in numbers unless it follows a trace.

    Parameters
    ----------
    ranks
        Hosts of the placement, which the words are about.
    ring
        Ranks of the point's ring, which the numbers are about: forward the lowest rate and the sum
        of the delays.
    """
    names = ("rate_mbit", "delay_ms", "return_rate_mbit", "return_delay_ms")
    if link.timetable is not None:
        return {"link_asked": _trace(link, link.timetable)} | dict.fromkeys(names)
    *forward, back = link.forward_path(ring)
    lowest_mbit = min((way.rate_mbit for way in forward if way.rate_mbit), default=None)
    numbers = (lowest_mbit, sum(way.delay_ms for way in forward), back.rate_mbit, back.delay_ms)
    return {
        "link_asked": described(link.forward_path(ranks)),
        **dict(zip(names, numbers, strict=True)),
    }


def _trace(link: LinkSpec, times: Timetable) -> str:
    """A trace in words: the ranges of its conditions, and how many of them were certified."""
    distinct = set(link.conditions)
    conditions = [condition for condition in distinct if not condition.outage]
    ends = {
        "Mbit/s": [c.rate_mbit for c in conditions if c.rate_mbit],
        "ms one way": [c.delay_ms for c in conditions],
        "% loss": [c.loss_percent for c in conditions],
    }
    spans = [
        f"{min(values):g} to {max(values):g} {unit}" for unit, values in ends.items() if any(values)
    ]
    if (lasts_s := outage_s(times, link.conditions)) > 0:
        spans.append(f"outages of up to {lasts_s:g} s")
    certified = f", {len(link.certified)} of {len(distinct)} conditions certified"
    return (
        f"trace of {len(link.trace)} segments in {times.period_s:g} s: {', '.join(spans)}"
        f"{certified if len(link.certified) < len(distinct) else ''}"
    )


def _idle_slows(plan: Plan) -> bool:
    """Whether TCP starts slowly after idle, so that single transfers take longer."""
    return plan.experiment.tcp.slow_start_after_idle


def described(path: Sequence[Condition]) -> str:
    """What was asked of a link, in words."""
    texts = [_condition(condition) for condition in path]
    if len(set(texts)) == 1:
        return texts[0]
    colon = ":" if len(path) > 2 else ""
    return "; ".join(f"{_way(hop, path)}{colon} {text}" for hop, text in enumerate(texts))


def _condition(condition: Condition) -> str:
    """One condition in words."""
    if not condition.shaped:
        return "unshaped"
    if condition.outage:
        return "nothing passes"
    delay = f"{condition.delay_ms:g}"
    delay += f" ± {condition.jitter_ms:g}" if condition.jitter_ms else ""
    parts = {
        f"{condition.rate_mbit or 0:g} Mbit/s": condition.rate_mbit,
        f"{delay} ms one way": condition.delay_ms,
        f"{100 * condition.mean_loss:g} % loss": condition.lossy,
        f"{condition.reorder_percent:g} % reordered": condition.reorder_percent,
        f"{condition.duplicate_percent:g} % duplicated": condition.duplicate_percent,
    }
    return ", ".join(text for text, said in parts.items() if said)

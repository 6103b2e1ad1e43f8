"""The attempts at each session of a run, read from its records, and which of them count.

One rule decides for resume and analysis alike (:meth:`Attempt.outcome`): resume measures again what
does not count, and the analysis uses what does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from paretopipe_worker.plan.belonging import Belonging, ForeignRecords
from paretopipe_worker.plan.experiment import MIN_ITEMS
from paretopipe_worker.plan.outcome import Outcome, of_lanes
from paretopipe_worker.plan.plan import Plan, Point, Session
from paretopipe_worker.records.files import DamagedRecord, read_records
from paretopipe_worker.records.lines import (
    CONTROLLER_RANK,
    COUNTED_PHASES,
    End,
    Header,
    Item,
    LegEnd,
    PointBegin,
    PointEnd,
    Ready,
    Record,
)
from paretopipe_worker.transport.backends import BACKENDS

MEASURED = ("latency", "throughput")
"""Phases of which every point needs a leg."""

WIRE_SHARE = 1.2
"""Most bytes that may cross for a byte of payload, beside the backend's framing of each message."""

_ALL = ("warmup", *COUNTED_PHASES, "drain")

MOST_BREAKS = 2
"""Number of sessions broken at a point after which it has failed: one may be bad luck."""


@dataclass
class Attempt:
    """What the records of one attempt at a session hold.

    Parameters
    ----------
    points
        The points the stages were to measure, in order, as a stage recorded them; where no stage
        did, as the controller recorded them.
    ids
        The same as a set: among thousands it is looked for each of them.
    begun
        The point that the source began last.
    ended
        The source's `PointEnd` of each point.
    legs
        Ends of all legs of each point, each with its rank.
    items
        Number of items that came back to the source, by point, phase and leg.
    files
        Rank, host and last line of each file that has a header; None in place of the last line
        where the file was cut short.
    damage
        What is wrong with each damaged file, by host, naming file and line. Nothing of such an
        attempt counts, since it cannot be known what else was lost.
    beside
        Where several sources share a sink: the same attempt in the other lanes, each with its
        points by the ids of the points of this one.
    """

    session: Session
    number: int
    points: tuple[str, ...] = ()
    ids: frozenset[str] = frozenset()
    begun: str | None = None
    ended: dict[str, PointEnd] = field(default_factory=dict)
    legs: dict[str, list[tuple[int, LegEnd]]] = field(default_factory=dict)
    items: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    files: list[tuple[int, str, End | None]] = field(default_factory=list)
    damage: dict[str, str] = field(default_factory=dict)
    beside: list[tuple[Attempt, dict[str, Point]]] = field(default_factory=list)

    def reading(self, path: Path, belonging: Belonging) -> Iterator[Record]:
        """Yield the records of one host's file, each after it was noted.

        They end where the file is damaged.
        """
        header: Header | None = None
        end: End | None = None
        try:
            for record in read_records(path):
                # The first line is a header, and no other. Nearly all of the rest are items.
                if header is None:
                    assert isinstance(record, Header)
                    belonging.check(path, record)
                    header = record
                    self._begin(header)
                elif isinstance(record, Item):
                    if header.rank == 0 and record.done_ns is not None:
                        self.items[record.point, record.phase, record.leg] += 1
                elif isinstance(record, Ready):
                    belonging.check_weights(path, header, record)
                elif isinstance(record, End):
                    end = record
                else:
                    self._note(header.rank, record)
                yield record
        except DamagedRecord as error:
            self.damage[path.parent.name] = str(error)
        if header:
            self.files.append((header.rank, header.host, end))

    def _begin(self, header: Header) -> None:
        """Keep which points a file is about."""
        # The points a stage recorded take precedence over those the controller recorded.
        if header.rank != CONTROLLER_RANK or not self.points:
            self.points, self.ids = header.points, frozenset(header.points)

    def _note(self, rank: int, record: Record) -> None:
        """Keep what one record of a rank says about points."""
        match record:
            case LegEnd():
                self.legs.setdefault(record.point, []).append((rank, record))
            case PointBegin():
                self.begun = record.point
            case PointEnd():
                self.ended[record.point] = record

    def outcome(self, point: Point) -> Outcome:
        """Judge this attempt at a point: it counts where all lanes measured it.

        A point that failed by itself in one lane did so in all. The reason is that of the point's
        own lane where it has one.
        """
        lanes = self.lanes(point)
        found = [each.own_outcome(its) for each, its in lanes]
        return of_lanes(found, [each.session.placement for each, _ in lanes])

    def lanes(self, point: Point) -> list[tuple[Attempt, Point]]:
        """Return this attempt and its point, and those of the other lanes."""
        return [(self, point), *((other, points[point.id]) for other, points in self.beside)]

    def own_outcome(self, point: Point) -> Outcome:
        """Judge this attempt at a point, whatever became of other lanes.

        It counts when the source recorded that the point ended well, every active rank has the end
        of the last leg of both phases, the last legs have enough items for a median, and in every
        leg the bytes that were to cross did.
        """
        if self.damage:
            return Outcome("lost", f"records of {', '.join(self.damage)} are damaged")
        end = self.ended.get(point.id)
        if end is None:
            return Outcome("lost", self.fault or "the session ended without this point")
        if end.status == "failed":
            return Outcome("failed", str(end.reason))
        legs = self.legs.get(point.id, [])
        if hosts := _lacking(point, legs):
            reason = f"records of {', '.join(hosts)} lack the end of a phase"
            return Outcome("lost", "; ".join(filter(None, (reason, self.fault))))
        if unfit := self._few(point, legs) or self._uncrossed(point, legs):
            return Outcome("failed", unfit)
        return Outcome("ok")

    @property
    def in_hand(self) -> str | None:
        """The point at which the session broke: it was begun and did not end."""
        return None if self.begun in self.ended or self.damage else self.begun

    @property
    def interrupted(self) -> bool:
        """Whether it was ended from outside: a stage was told to end and all recorded their end.

        A stage that is killed outright, as when memory runs out, writes no last line. Then the
        others may have been told to end, but only because that stage was gone. The stages of all
        lanes are looked at.
        """
        attempts = (self, *(other for other, _ in self.beside))
        files = [file for attempt in attempts for file in attempt.files]
        ends = [end for rank, _, end in files if rank != CONTROLLER_RANK]
        told = [end for end in ends if end is not None]
        return len(told) == len(ends) and any(end.interrupted for end in told)

    @property
    def fault(self) -> str | None:
        """Why it broke, as its hosts and the controller recorded it; None where none did."""
        return "; ".join(dict.fromkeys(self._complaints())) or None

    def _complaints(self) -> Iterator[str]:
        """What is wrong with its files, the controller's view first."""
        for rank, host, end in sorted(self.files, key=lambda file: file[0]):
            if end is None:
                yield f"{host}: records were cut short"
            elif end.status == "failed":
                # A stage's reason begins with its host's name; the controller's need not.
                yield f"{host}: {end.reason}" if rank == CONTROLLER_RANK else str(end.reason)
        written = {host for _, host, _ in self.files}
        yield from (f"{host}: no records" for host in self.session.placement if host not in written)

    def _few(self, point: Point, legs: list[tuple[int, LegEnd]]) -> str | None:
        """The phase with too few items for a median, and their number; None where there is none."""
        last = _last(legs)
        for phase in MEASURED:
            count = self.items[point.id, phase, last[phase]]
            if count < MIN_ITEMS:
                return f"phase {phase} has {count} items, at least {MIN_ITEMS} are needed"
        return None

    def _uncrossed(self, point: Point, legs: list[tuple[int, LegEnd]]) -> str | None:
        """The first leg whose bytes are not those that were to cross; None where there is none."""
        backend, message_sizes = BACKENDS[point.backend], point.message_sizes
        for rank, leg in legs:
            sizes, sent = message_sizes[rank], leg.payload_sent_bytes
            wire = leg.wire_sent_bytes
            # Items of the warm-up and the drain cross, too, and a mark, without tensors.
            items = sum(self.items[point.id, phase, leg.leg] for phase in _ALL)
            allowed = range(items * sizes[0], items * sizes[-1] + 1)
            messages = items if sizes[-1] else 0
            least = sent + backend.least_framing_bytes * messages
            most = WIRE_SHARE * sent + backend.most_framing_bytes * (messages + 1)
            most += leg.retransmitted_bytes or 0
            if sent not in allowed or (wire is not None and not least <= wire <= most):
                return (
                    f"{point.placement[rank]}, {leg.phase}: {_told(allowed)} bytes were to cross, "
                    f"{sent} were handed to the transport, the network counted "
                    f"{'nothing' if wire is None else wire}"
                )
        return None


def _told(sizes: range) -> str:
    """A size, or the least and the most."""
    return f"{sizes[0]} to {sizes[-1]}" if len(sizes) > 1 else f"{sizes[0]}"


def _last(legs: list[tuple[int, LegEnd]]) -> dict[str, int]:
    """Number of the last leg of each phase on any rank: only it counts, on every rank."""
    last: dict[str, int] = {}
    for _, leg in legs:
        last[leg.phase] = max(leg.leg, last.get(leg.phase, 0))
    return last


def _lacking(point: Point, legs: list[tuple[int, LegEnd]]) -> list[str]:
    """Hosts of active ranks whose records lack the end of a phase's last leg."""
    last = _last(legs)
    ended = {(rank, leg.phase) for rank, leg in legs if leg.leg == last[leg.phase]}
    return [
        point.placement[rank]
        for rank in point.active_ranks
        if not all((rank, phase) in ended for phase in MEASURED)
    ]


def outcomes(tried: Iterable[Attempt], point: Point) -> Iterator[tuple[Attempt, Outcome]]:
    """Yield the attempts at a point in their order, each with its outcome.

    A point that was being measured when a session broke may be the cause, for example where it
    takes too much memory: after :data:`MOST_BREAKS` such attempts it has failed. Attempts that were
    interrupted do not count among them.
    """
    breaks = 0
    for attempt in tried:
        lanes = attempt.lanes(point)
        if not any(its.id in each.ids for each, its in lanes):
            continue
        outcome = attempt.outcome(point)
        broke = any(each.in_hand == its.id for each, its in lanes)
        if outcome.status == "lost" and broke and not attempt.interrupted:
            breaks += 1
            if breaks >= MOST_BREAKS:
                reason = f"in hand when the session broke {breaks} times: {outcome.reason}"
                outcome = Outcome("failed", reason)
        yield attempt, outcome


class Attempts:
    """All attempts of a run, collected from its record files one by one."""

    def __init__(self, plan: Plan) -> None:
        self.belonging = Belonging(plan)
        self._sessions = {session.id: session for session in plan.sessions}
        self._found: dict[str, dict[int, Attempt]] = {name: {} for name in self._sessions}
        self._plan = plan

    def reading(self, path: Path) -> Iterator[Record]:
        """Yield the records of one file, each after its attempt has noted it.

        Raises
        ------
        RecordError
            When the records are of another schema, or must not be mixed with those of this run.
        """
        session, _, number = path.name.removesuffix(".jsonl").rpartition(".")
        if session not in self._sessions or not number.isdecimal():
            self.belonging.check_first(path)
            raise ForeignRecords(f"{path}: is of no session of this run's plan.json")
        if int(number) not in self._found[session]:
            self._add(int(number), self._plan.lanes(self._sessions[session]))
        yield from self._found[session][int(number)].reading(path, self.belonging)

    def _add(self, number: int, sessions: Sequence[Session]) -> None:
        """Add an attempt at sessions that are launched together."""
        made = [Attempt(session, number) for session in sessions]
        for attempt in made:
            self._found[attempt.session.id][number] = attempt
            for other in made:
                if other is not attempt:
                    theirs = map(self._plan.point, other.session.points)
                    alike = dict(zip(attempt.session.points, theirs, strict=True))
                    attempt.beside.append((other, alike))

    def of(self, session: str) -> list[Attempt]:
        """The attempts at a session that left a file, there or in another lane, in their order."""
        return [attempt for _, attempt in sorted(self._found[session].items())]

    @property
    def damages(self) -> list[str]:
        """A line for each damaged file: what is damaged, and which attempt is lost by that."""
        return [
            f"{where}; nothing of attempt {attempt.number} at session {name} counts"
            for name in self._sessions
            for attempt in self.of(name)
            for where in attempt.damage.values()
        ]


def read(plan: Plan, results: Path) -> Attempts:
    """Read the attempts of a run from its records.

    Raises
    ------
    RecordError
        When records are of another schema, or must not be mixed with those of this run.
    """
    attempts = Attempts(plan)
    for path in files(results):
        for _ in attempts.reading(path):
            pass
    return attempts


def files(results: Path) -> list[Path]:
    """The record files of a run, in order."""
    return sorted(results.glob("records/*/*.jsonl"))

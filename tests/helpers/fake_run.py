"""Records of a made-up run, written with the worker's own plan and record writer.

Its numbers come from a simple model of a pipeline; none was measured. The source's clock is its
timeline, and other ranks write what their own clocks show (:mod:`tests.helpers.fake_clocks`).
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from paretopipe_worker.plan import code, identity, predict
from paretopipe_worker.plan import plan as plans
from paretopipe_worker.plan.plan import Plan, Point, Session
from paretopipe_worker.records.files import Writer, file_name
from paretopipe_worker.records.health import Health
from paretopipe_worker.records.lines import (
    SCHEMA,
    End,
    Header,
    Item,
    LegEnd,
    Phase,
    PointBegin,
    PointEnd,
    Ready,
)
from paretopipe_worker.transport.backends import BACKENDS
from tests.helpers.fake_clocks import Clocks, When
from tests.helpers.fake_legs import WARMUP, Leg, Step, period_ms, shares_of
from tests.helpers.fake_plan import WEIGHTS, WIRE_PER_PAYLOAD, expected_ms
from tests.helpers.fake_probes import probe
from tests.helpers.fake_profiles import profiles

HEALTHY = Health(
    wall_over_cpu=1.01,
    others_cpu=0.02,
    cpu_mhz=(1500.0, 1500.0, 1500.0),
    governor="performance",
    temperature_c=55.0,
    throttled=(),
    swapped_pages=0,
    peak_rss_bytes=300_000_000,
)
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "1073741824"}
DISTURBANCE = "computing took 1.50 of its CPU time (1.05 allowed): something else had the core"

_START_NS = 5_000_000_000


@dataclass
class FakeRun:
    """Writes a run's directory.

    Parameters
    ----------
    items
        Items of each leg that counts.
    noise
        Spread of compute times, as a share.
    engine
        Who shapes the links that are shaped; they are what was asked for.
    clocks
        How the clocks of the other ranks go.
    loads
        Legs of offered load, as shares of each point's throughput.
    again
        Disturbed legs before the last one of a phase, by phase: they are half again as slow.
    health
        The hosts' health by rank, where it is not :data:`HEALTHY`.
    profiled
        Whether hosts profiled their programs.
    """

    path: Path
    plan: Plan
    items: int = 20
    noise: float = 0.02
    engine: Literal["netem", "relay"] = "netem"
    clocks: Clocks = field(default_factory=Clocks)
    loads: tuple[float, ...] = ()
    again: dict[str, int] = field(default_factory=dict)
    health: dict[int, Health] = field(default_factory=dict)
    profiled: bool = False

    def __post_init__(self) -> None:
        self.path.mkdir(parents=True)
        (self.path / "plan.json").write_text(plans.dump(self.plan), encoding="utf-8")

    def all_sessions(self) -> FakeRun:
        """Every session, measured without trouble."""
        for session in self.plan.sessions:
            self.session(session)
        return self

    def session(
        self,
        session: Session,
        attempt: int = 0,
        *,
        points: Iterable[str] | None = None,
        end: Literal["ok", "failed", "none"] = "ok",
        reason: str | None = None,
        scale: float = 1.0,
        header: dict[str, Any] | None = None,
        disturbed: Sequence[str] = (),
        wall_clock_step_ns: int = 0,
        weights: str = WEIGHTS,
    ) -> list[Path]:
        """Every host's file of one attempt; `header` holds other values for the first line.

        `points` are those measured (all by default); `scale` multiplies compute times; at those of
        `disturbed` the last rank's throughput leg stayed disturbed; `wall_clock_step_ns` is how
        far the last rank's wall clock jumped; `weights` is what the hosts loaded.
        """
        done = [self.plan.point(id) for id in (session.points if points is None else points)]
        last = len(session.placement) - 1
        paths = []
        for rank, host in enumerate(session.placement):
            with Writer(self.file(session, attempt, host)) as writer:
                paths.append(writer.path)
                writer.write(self.header(session, attempt, host, rank, header or {}))
                writer.write(Ready({"congestion": "cubic"}, {}, weights))
                for profile in profiles(self.plan, session) if self.profiled else ():
                    writer.write(profile)
                # Sessions of one machine begin one after the other, lanes of a group together.
                turn = self.plan.groups.index(self.plan.lanes(session))
                begin = _START_NS + attempt * 10**12 + 10**13 * turn
                if rank == 0:
                    self.compare(writer, "before", last, begin - 500_000_000)
                    writer.write(probe(self.plan, session, 0))
                legs = self.walked(writer, session, attempt, rank, done, scale, disturbed, begin)
                now = legs[-1].end_ns + 50_000_000 if legs else begin
                if rank == 0 and end == "ok":
                    self.compare(writer, "between", last, now - 40_000_000)
                    writer.write(probe(self.plan, session, len(done)))
                    self.compare(writer, "after", last, now + 100_000_000)
                if end != "none":
                    writer.write(
                        End(
                            end,
                            reason,
                            process_start_ns=self.clocks.of(rank, begin - 3_000_000_000),
                            end_ns=self.clocks.of(rank, now + 500_000_000),
                            shares_ns=shares_of(legs),
                            wall_clock_step_ns=wall_clock_step_ns if rank == last else 0,
                        )
                    )
        return paths

    def walked(
        self,
        writer: Writer,
        session: Session,
        attempt: int,
        rank: int,
        points: Sequence[Point],
        scale: float,
        disturbed: Sequence[str],
        now: int,
    ) -> list[Leg]:
        """One rank's lines of all points of an attempt, from `now` on; their legs."""
        certified, last = self.certified_after(session), len(session.placement) - 1
        walked: list[Leg] = []
        for number, point in enumerate(points):
            if rank == 0:
                self.compare(writer, "between", last, now - 40_000_000)
            if rank == 0 and number in certified[1:-1]:
                writer.write(probe(self.plan, session, number))
            legs = self.legs(point, f"{session.id} {attempt} {point.id}", scale, now)
            self.point(writer, point, rank, legs, point.id in disturbed and rank == last)
            now = legs[-1].end_ns + 50_000_000
            walked += legs
        return walked

    def compare(self, writer: Writer, when: When, last: int, at_ns: int) -> None:
        """The comparisons of all ranks' clocks with the source's, one after the other."""
        for rank in range(1, last + 1):
            writer.write(self.clocks.record(when, rank, at_ns))

    def controller_failure(self, session: Session, attempt: int, reason: str) -> None:
        """What the controller writes where it saw a session fail."""
        with Writer(self.file(session, attempt, "controller")) as writer:
            writer.write(self.header(session, attempt, "controller", -1, {}))
            writer.write(End("failed", reason, 0, 0, {}))

    def file(self, session: Session, attempt: int, host: str) -> Path:
        """Path of one file."""
        return self.path / "records" / host / file_name(session.id, attempt)

    def header(
        self, session: Session, attempt: int, host: str, rank: int, changes: dict[str, Any]
    ) -> Header:
        """The header of one file."""
        controller = rank < 0
        shaped = not controller and self.plan.link(session.link).shaped
        engine = self.engine if shaped else "none"
        values: dict[str, Any] = {
            "run": self.plan.run,
            "session": session.id,
            "attempt": attempt,
            "replicate": session.replicate,
            "host": host,
            "rank": rank,
            "backend": session.backend,
            "link": session.link,
            "model": session.model,
            "points": session.points,
            "plan_sha256": identity.digest(self.plan),
            "code_sha256": code.digest(),
            "torch": "" if controller else "2.13.0",
            "device_emulated": 1.0 if controller else self.plan.host(host).device_emulated,
            "link_engine": engine,
            "link_emulated": engine == "relay",
            "tcp": {"tcp_congestion_control": "cubic"},
            "started_unix_ns": 1_790_000_000_000_000_000,
            "facts": {
                "cpu": "made up",
                "boot_id": f"boot of {host}",
                "threads": 1,
                "allocator": dict(ALLOCATOR),
            },
            "versions": {"torch": "2.13.0", "python": "3.11.7"},
            "schema": SCHEMA,
        }
        return Header(**(values | changes))

    def certified_after(self, session: Session) -> tuple[int, ...]:
        """After how many points the path of a whole session is measured."""
        link, ranks = self.plan.link(session.link), len(session.placement)
        seconds = [self.plan.point(point).predicted_s for point in session.points]
        return predict.certified_after(self.plan.experiment, link, ranks, seconds)

    def legs(self, point: Point, seed: str, scale: float, now: int) -> list[Leg]:
        """All legs of a point, as they went by the source's clock from `now` on."""
        phases: list[tuple[Phase, float | None]] = []
        measured: tuple[Phase, ...] = ("latency", "throughput")
        for phase in measured:
            phases += [(phase, None)] * (1 + self.again.get(phase, 0))
        stage, wire = expected_ms(self.plan, point)
        window = 4 if point.window == "auto" else point.window
        most_per_s = 1e3 / period_ms(stage, wire, window)
        phases += [("load", share * most_per_s) for share in self.loads]
        legs: list[Leg] = []
        for number, (phase, offered) in enumerate(phases):
            spoilt = phase in (name for name, _ in phases[number + 1 :]) and phase != "load"
            random_ms = random.Random(f"{seed} {phase} {number}")
            slow = scale * (1.5 if spoilt else 1)
            leg = Leg(phase, number, window if phase != "latency" else 1, offered, spoilt)
            leg.run(now, list(self.computing(point, slow, random_ms)), wire, random_ms)
            now = leg.end_ns
            legs.append(leg)
        return legs

    def computing(
        self, point: Point, scale: float, random_ms: random.Random
    ) -> Iterator[list[float]]:
        """Milliseconds of each stage's computation, item by item, warm-up first."""
        stage, _ = expected_ms(self.plan, point)
        for _ in range(WARMUP + self.items):
            spread = scale * (1 + abs(random_ms.gauss(0, self.noise)))
            yield [part * spread for part in stage]

    def point(
        self, writer: Writer, point: Point, rank: int, legs: Sequence[Leg], disturbed: bool
    ) -> None:
        """One rank's lines of one point."""
        if rank > 0 and not point.hops[rank - 1]:
            return
        if rank == 0:
            writer.write(PointBegin(point.id))
        for leg in legs:
            for step in (*leg.warmup, *leg.items):
                writer.write(self.item(point, rank, leg, step))
            messages = (WARMUP + self.items) * bool(point.hop_bytes[rank])
            payload = point.message_sizes[rank][-1] * messages
            framing = BACKENDS[point.backend].least_framing_bytes * messages
            relayed = self.engine == "relay" and self.plan.link(point.link).shaped
            begin, finish = (self.clocks.of(rank, at) for at in (leg.items[0].ready_ns, leg.end_ns))
            spoilt = leg.spoilt or (disturbed and leg.phase == "throughput")
            writer.write(
                LegEnd(
                    point=point.id,
                    phase=leg.phase,
                    items=self.items,
                    start_ns=begin,
                    end_ns=finish,
                    ended_by="minimum" if rank == 0 else None,
                    payload_sent_bytes=payload,
                    wire_sent_bytes=int(payload * WIRE_PER_PAYLOAD) + framing,
                    wire_counter="sockets",
                    retransmitted_bytes=0,
                    relay_late_p99_ns=300_000 if relayed else None,
                    relay_forwarded=payload // 1448 if relayed else None,
                    relay_dropped=0 if relayed else None,
                    leg=leg.number,
                    window=leg.window,
                    warmup_items=WARMUP if rank == 0 else None,
                    warmup_ended_by="steady" if rank == 0 else None,
                    offered_per_s=leg.offered_per_s if rank == 0 else None,
                    health=self.health.get(rank, HEALTHY),
                    disturbed=(DISTURBANCE,) if spoilt else (),
                )
            )
        if rank == 0:
            writer.write(PointEnd(point.id, "ok", None, True, "exact", 0.0))

    def item(self, point: Point, rank: int, leg: Leg, step: Step) -> Item:
        """One item, as one rank wrote it by its own clock."""
        factor = self.plan.host(point.placement[rank]).device_emulated
        crosses = bool(point.hops[0])
        bare = int((step.computed_ns[rank] - step.start_ns[rank]) / factor)
        counted = step.seq >= WARMUP
        source = rank == 0
        # The message came from the rank before, by whose clock it left.
        before = (rank - 1) % len(point.hops)
        left = step.computed_ns[before]
        computed = self.clocks.of(rank, step.computed_ns[rank])
        return Item(
            point=point.id,
            phase=leg.phase if counted else "warmup",
            seq=step.seq,
            ready_ns=self.clocks.of(rank, step.arrived_ns[rank]),
            start_ns=self.clocks.of(rank, step.start_ns[rank]),
            computed_ns=computed,
            compute_ns=bare,
            cpu_ns=int(bare * 0.99),
            sent_ns=computed if point.hops[rank] else None,
            done_ns=step.done_ns if source else None,
            latency_ns=step.done_ns - step.ready_ns if source else None,
            leg=leg.number,
            packed_ns=computed if point.hops[rank] else None,
            departed_ns=self.clocks.of(before, left) if crosses else None,
            overslept_ns=0 if factor > 1 else None,
        )

"""Records of a made-up run, written with the worker's own plan and record writer.

Its numbers come from a simple model of a pipeline: none was measured. It has a timeline of its
own, which is the source's clock; what other ranks write is told by their clocks (:class:`Clocks`).
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from analysis.measures import chance
from paretopipe_worker.cuts import FIRST, LAST, Cut, CutTable, TensorSpec
from paretopipe_worker.link.conditions import Condition
from paretopipe_worker.plan import code, planner, predict, spec
from paretopipe_worker.plan import plan as plans
from paretopipe_worker.plan.fleet import Host
from paretopipe_worker.plan.plan import Plan, Point, Session
from paretopipe_worker.records.clocks import Clock, Exchange, Reading
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
from paretopipe_worker.records.probes import Datagrams, Probe, Transfer
from paretopipe_worker.transport.backends import BACKENDS

WEIGHTS, GRAPH = "ab" * 32, "12" * 32
FORWARD_MS = 40.0
WIRE_PER_PAYLOAD = 1.045
WARMUP = 2
HOSTS = (
    Host(name="pi", data_address="10.0.0.1", device_emulated=3.0),
    Host(name="server", data_address="10.0.0.2"),
)

_MOBILENET = (
    (32, 112), (16, 112), (24, 56), (24, 56), (32, 28), (32, 28), (32, 28), (64, 14), (64, 14),
    (64, 14), (64, 14), (96, 14), (96, 14), (96, 14), (160, 7), (160, 7), (160, 7), (320, 7),
    (1280, 7),
)  # fmt: skip


def mobilenet_table(batch: int = 1, model: str = "mobilenet_v2") -> CutTable:
    """MobileNetV2's block cuts at 224 px, with their real shapes."""
    cuts = tuple(
        Cut(f"features.{n}", (TensorSpec((batch, channels, side, side), "float32"),))
        for n, (channels, side) in enumerate(_MOBILENET)
    )
    return table(cuts, batch, model)


def table(cuts: tuple[Cut, ...], batch: int = 1, model: str = "mobilenet_v2") -> CutTable:
    """A cut table over these cuts."""
    return CutTable(
        model=model,
        granularity="block",
        batch=batch,
        dtype="float32",
        input=TensorSpec((batch, 3, 224, 224), "float32"),
        cuts=cuts,
        output=(TensorSpec((batch, 1000), "float32"),),
        weights_sha256=WEIGHTS,
        graph_sha256=GRAPH,
        forward_ns=int(FORWARD_MS * 1e6) * batch,
    )


def tiny_table() -> CutTable:
    """Two cuts, for tests that are not about pictures."""
    return table(
        tuple(Cut(f"body.{n}", (TensorSpec((1, 8 << n, 8, 8), "float32"),)) for n in range(2)),
        model="tiny",
    )


def make(
    *tables: CutTable,
    run: str = "made-up",
    hosts: Sequence[Host] = HOSTS,
    **experiment: Any,
) -> Plan:
    """A plan over these tables; `experiment` as in a spec, on the open link by default."""
    document = {"models": [table.model for table in tables], "links": ["none"]} | experiment
    document["models"] = list(dict.fromkeys(document["models"]))
    return planner.make(run, spec.parse(document), hosts, tables)


TWO_LINKS: list[Any] = ["none", {"name": "rate20", "rate_mbit": 20}]
SIX_LINKS: list[Any] = [
    "none",
    "wifi",
    "lte",
    "paper-delay200",
    "paper-rate5",
    "paper-delay200-rate5",
]
PAPER_LINKS: list[Any] = [
    "none",
    {"name": "delay200", "delay_ms": 200},
    {"name": "rate5", "rate_mbit": 5},
    {"name": "both", "rate_mbit": 5, "delay_ms": 200},
]

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


@dataclass(frozen=True)
class Clocks:
    """How the clock of every rank but the source goes: ahead, and faster or slower.

    `exchange_ns` is the time of the fastest exchange between both. At `step_at_ns` of the source's
    clock the other host stands still, and both its clocks jump by `step_ns`. From `slew_at_ns` on
    the monotonic clock of `slewed` goes faster by `slew_ppm`, until it has gained `slew_ns`. Raw
    clocks go faster than monotonic ones by `corrected_ppm`. From `warm_at_ns` on the other host's
    crystal goes faster by `warm_ppm`.
    """

    ahead_ns: int = 5_000_000_000
    drift_ppm: float = -20.0
    exchange_ns: int = 60_000
    step_ns: int = 0
    step_at_ns: int = 0
    slew_ns: int = 0
    slew_at_ns: int = 0
    slew_ppm: float = 400.0
    slewed: Literal["source", "other"] = "other"
    corrected_ppm: float = 7.0
    warm_at_ns: int = 0
    warm_ppm: float = 0.0

    def of(self, rank: int, source_ns: int) -> int:
        """What the clock of `rank` shows when the source's shows `source_ns`."""
        if rank == 0:
            return source_ns
        stepped = self.step_ns if source_ns >= self.step_at_ns else 0
        drifted = round(source_ns * self.drift_ppm * 1e-6)
        drifted += round(max(0, source_ns - self.warm_at_ns) * self.warm_ppm * 1e-6)
        # A clock that the source's gains on stays behind.
        gained = self._gained_ns(source_ns) * (1 if self.slewed == "other" else -1)
        return source_ns + self.ahead_ns + drifted + stepped + gained

    def read(self, rank: int, source_ns: int) -> Reading:
        """What both clocks of `rank` show then."""
        shown = self.of(rank, source_ns)
        gained = (self.slewed == "other") == (rank > 0) and self._gained_ns(source_ns)
        raw = shown - gained + round(source_ns * self.corrected_ppm * 1e-6) + 10**9 * (rank + 1)
        return shown, raw, shown

    def _gained_ns(self, source_ns: int) -> int:
        """What a clock was slewed by until then."""
        return min(self.slew_ns, max(0, round((source_ns - self.slew_at_ns) * self.slew_ppm / 1e6)))

    def record(self, when: Literal["before", "between", "after"], rank: int, at_ns: int) -> Clock:
        """Exchanges from `at_ns` on, the answer made halfway, some of them slower."""
        exchanges = []
        for number in range(8):
            took_ns = self.exchange_ns + 10_000 * ((number + 3) % 8)
            # Only the fastest is even: the others came late on one way.
            times = (0, at_ns), (rank, at_ns + self.exchange_ns // 2), (0, at_ns + took_ns)
            exchanges.append(Exchange(*(self.read(*time) for time in times)))
            at_ns += 200_000
        return Clock(when, rank, tuple(exchanges))


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
    """

    path: Path
    plan: Plan
    items: int = 20
    noise: float = 0.02
    engine: Literal["netem", "relay"] = "netem"
    clocks: Clocks = Clocks()
    loads: tuple[float, ...] = ()
    again: dict[str, int] = field(default_factory=dict)
    health: dict[int, Health] = field(default_factory=dict)

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
        """Both hosts' files of one attempt; `header` holds other values for the first line.

        `points` are those measured (all by default); `scale` multiplies compute times; at those of
        `disturbed` the last rank's throughput leg stayed disturbed; `wall_clock_step_ns` is how
        far the last rank's wall clock jumped; `weights` is what the hosts loaded.
        """
        done = [self.plan.point(id) for id in (session.points if points is None else points)]
        certified = self.certified_after(session)
        last = len(session.placement) - 1
        paths = []
        for rank, host in enumerate(session.placement):
            with Writer(self.file(session, attempt, host)) as writer:
                paths.append(writer.path)
                writer.write(self.header(session, attempt, host, rank, header or {}))
                writer.write(Ready({"congestion": "cubic"}, {}, weights))
                # Sessions of one machine begin one after the other.
                begin = _START_NS + attempt * 10**12 + 10**13 * self.plan.sessions.index(session)
                now = begin
                if rank == 0:
                    writer.write(self.clocks.record("before", last, now - 500_000_000))
                    writer.write(self.probe(session, 0))
                shares = {"startup": 2_500_000_000}
                for number, point in enumerate(done):
                    if rank == 0:
                        writer.write(self.clocks.record("between", last, now - 40_000_000))
                    if rank == 0 and number in certified[1:-1]:
                        writer.write(self.probe(session, number))
                    seed = f"{session.id} {attempt} {point.id}"
                    legs = self.legs(point, seed, scale, now)
                    self.point(writer, point, rank, legs, point.id in disturbed and rank == last)
                    now = legs[-1].end_ns + 50_000_000
                    for leg in legs:
                        warm = leg.items[0].ready_ns - leg.start_ns
                        shares["warmup"] = shares.get("warmup", 0) + warm
                        spent = leg.end_ns - leg.start_ns - warm
                        shares[leg.phase] = shares.get(leg.phase, 0) + spent
                if rank == 0 and end == "ok":
                    writer.write(self.clocks.record("between", last, now - 40_000_000))
                    writer.write(self.probe(session, len(done)))
                    writer.write(self.clocks.record("after", last, now + 100_000_000))
                if end != "none":
                    writer.write(
                        End(
                            end,
                            reason,
                            process_start_ns=self.clocks.of(rank, begin - 3_000_000_000),
                            end_ns=self.clocks.of(rank, now + 500_000_000),
                            shares_ns=shares,
                            wall_clock_step_ns=wall_clock_step_ns if rank == last else 0,
                        )
                    )
        return paths

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
            "plan_sha256": plans.digest(self.plan),
            "code_sha256": code.digest(),
            "torch": "" if controller else "2.13.0",
            "device_emulated": 1.0 if controller else self.plan.host(host).device_emulated,
            "link_engine": engine,
            "link_emulated": engine == "relay",
            "tcp": {"tcp_congestion_control": "cubic"},
            "started_unix_ns": 1_790_000_000_000_000_000,
            "facts": {"cpu": "made up", "threads": 1, "allocator": dict(ALLOCATOR)},
            "versions": {"torch": "2.13.0", "python": "3.11.7"},
            "schema": SCHEMA,
        }
        return Header(**(values | changes))

    def certified_after(self, session: Session) -> tuple[int, ...]:
        """After how many points the path of a whole session is measured."""
        link, ranks = self.plan.link(session.link), len(session.placement)
        seconds = [self.plan.point(point).predicted_s for point in session.points]
        return predict.certified_after(self.plan.experiment, link, ranks, seconds)

    def probe(self, session: Session, after_points: int) -> Probe:
        """The link as the profile says it is."""
        path = self.plan.link(session.link).forward_path(len(session.placement))
        trip_ms = sum(condition.delay_ms for condition in path) + 0.1
        goodput = [(condition.rate_mbit or 9000) / WIRE_PER_PAYLOAD for condition in path]
        transfers = tuple(
            Transfer(hop, size, (int((trip_ms + size * 8 / (rate * 1e3)) * 1e6),) * 3)
            for size in (8 << 10, 512 << 10)
            for hop, rate in enumerate(goodput)
        )
        trips = tuple(int((trip_ms + 0.01 * n) * 1e6) for n in range(5))
        erratic = any(condition.erratic for condition in path)
        return Probe(
            after_points,
            trips,
            tuple(goodput),
            transfers,
            self.datagrams(path) if erratic else None,
        )

    def datagrams(self, path: Sequence[Condition], count: int = 600) -> Datagrams:
        """Datagrams as many as should come, all as late as half of them should be."""
        interval_ns = 2_000_000
        kept = [count]
        for condition in path:
            kept.append(round(kept[-1] * (1 - condition.mean_loss)))
        median_ms = chance.simulate(path, count, interval_ns / 1e6).round_trip_ms.mean
        times = (int(median_ms * 1e6),) * kept[-1]
        return Datagrams(interval_ns, tuple(kept[:-1]), tuple(kept[1:]), times)

    def legs(self, point: Point, seed: str, scale: float, now: int) -> list[Leg]:
        """All legs of a point, as they went by the source's clock from `now` on."""
        phases: list[tuple[Phase, float | None]] = [
            *[("latency", None)] * (1 + self.again.get("latency", 0)),
            *[("throughput", None)] * (1 + self.again.get("throughput", 0)),
        ]
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
            payload = point.hop_bytes[rank] * messages
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
        before = (rank - 1) % len(point.placement)
        left = step.computed_ns[before]
        computed = self.clocks.of(rank, step.computed_ns[rank])
        return Item(
            point=point.id,
            phase=leg.phase if counted else "warmup",
            seq=step.seq,
            ready_ns=self.clocks.of(rank, step.ready_ns if source else step.arrived_ns),
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


@dataclass(frozen=True)
class Step:
    """One item on its way through both stages, by the source's clock."""

    seq: int
    ready_ns: int
    arrived_ns: int
    start_ns: tuple[int, int]
    computed_ns: tuple[int, int]
    done_ns: int


@dataclass
class Leg:
    """One leg of a point by the source's clock; `spoilt` if it was disturbed and not the last."""

    phase: Phase
    number: int
    window: int
    offered_per_s: float | None
    spoilt: bool
    start_ns: int = 0
    end_ns: int = 0
    warmup: list[Step] = field(default_factory=list)
    items: list[Step] = field(default_factory=list)

    def run(
        self,
        now: int,
        computing: Sequence[list[float]],
        wire: Sequence[float],
        random_ms: random.Random,
    ) -> None:
        """Send the items on their way: one by one, as the window allows, or as they arrive."""
        self.start_ns = arrived = free = now
        for seq, stage in enumerate(computing):
            alone, period = sum(stage) + sum(wire), period_ms(stage, wire, self.window)
            if self.phase == "latency":
                ready, taken, free = free, alone, free + int(alone * 1e6)
            elif self.phase == "throughput":
                ready, taken, free = free, period * self.window, free + int(period * 1e6)
            else:
                # A queue before the slowest part, whose time it takes from one item to the next.
                assert self.offered_per_s is not None
                arrived += int(random_ms.expovariate(self.offered_per_s) * 1e9)
                ready, begun = arrived, max(arrived, free)
                taken, free = alone + (begun - ready) / 1e6, begun + int(period * 1e6)
            step = _step(seq, ready, stage, wire, taken)
            (self.warmup if seq < WARMUP else self.items).append(step)
        self.end_ns = max(free, self.items[-1].done_ns)


def _step(
    seq: int, ready: int, stage: Sequence[float], wire: Sequence[float], taken: float
) -> Step:
    """One item that takes `taken` ms; what it waits, it waits before the last stage."""
    done = ready + int(taken * 1e6)
    # The item waits for the first stage where that is the slowest, else before the last.
    first = ready + int(stage[0] * 1e6)
    arrived = first + int(wire[0] * 1e6)
    last = done - int(wire[1] * 1e6)
    start = max(arrived, last - int(stage[1] * 1e6))
    return Step(seq, ready, arrived, (ready, start), (first, max(last, start)), done)


def period_ms(stage: Sequence[float], wire: Sequence[float], window: int) -> float:
    """Time from one completion to the next with `window` items in flight."""
    return max(*stage, *wire, (sum(stage) + sum(wire)) / window)


def expected_ms(plan: Plan, point: Point) -> tuple[list[float], list[float]]:
    """Milliseconds of each stage's compute and of each hop's wire, as the made-up numbers have it.

    The first quarter of the layers does 40 % of the work, as in real networks of images.
    """
    cuts = plan.table(point.model, point.batch, point.dtype).names
    order = (LAST, *cuts, FIRST)
    share = (order.index(point.split[0]) / (len(order) - 1)) ** 0.66
    forward = FORWARD_MS * point.batch
    factors = [plan.host(host).device_emulated for host in point.placement]
    stage = [forward * share * factors[0], forward * (1 - share) * factors[1]]
    path = plan.link(point.link).forward_path(len(point.placement))
    wire = [
        way.delay_ms + 0.05 + size * 8 * WIRE_PER_PAYLOAD / ((way.rate_mbit or 9000) * 1e3)
        if size
        else 0.0
        for way, size in zip(path, point.hop_bytes, strict=True)
    ]
    return stage, wire

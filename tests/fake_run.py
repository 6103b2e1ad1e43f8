"""Records of a made-up run, written with the worker's own plan and record writer.

Its numbers come from a simple model of a pipeline (:class:`Device`): none was measured.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from analysis import chance
from paretopipe_worker import plan as plans
from paretopipe_worker import records, spec
from paretopipe_worker.cuts import FIRST, LAST, Cut, CutTable, TensorSpec
from paretopipe_worker.fleet import Host
from paretopipe_worker.link.conditions import Condition
from paretopipe_worker.plan import Plan, Point, Session

WEIGHTS = "ab" * 32
FORWARD_MS = 40.0
WIRE_OVERHEAD = 1.045
WARMUP = 2
PHASES: tuple[records.Phase, ...] = ("latency", "throughput")
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
    return plans.make(run, spec.parse(document), hosts, tables)


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


@dataclass
class FakeRun:
    """Writes a run's directory.

    `items` is the number of items in each measured phase; `noise` the spread of compute times.
    Links are what was asked for; those shaped are `engine`'s.
    """

    path: Path
    plan: Plan
    items: int = 20
    noise: float = 0.02
    engine: Literal["netem", "relay"] = "netem"

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
    ) -> list[Path]:
        """Both hosts' files of one attempt; `header` holds other values for the first line.

        `points` are those measured (all by default); `scale` multiplies compute times.
        """
        done = session.points if points is None else tuple(points)
        seed = f"{session.id} {attempt}"
        paths = []
        for rank, host in enumerate(session.placement):
            with records.Writer(self.file(session, attempt, host)) as writer:
                paths.append(writer.path)
                writer.write(self.header(session, attempt, host, rank, header or {}))
                clock = 5_000_000_000 * (rank + 1)
                start = clock - 3_000_000_000
                writer.write(records.Ready({"congestion": "cubic"}, {}))
                if rank == 0:
                    writer.write(self.probe(session, "before"))
                measured = 0
                for point_id in done:
                    point = self.plan.point(point_id)
                    clock, spent = self.point(writer, point, rank, clock, seed, scale)
                    measured += spent
                if rank == 0 and end == "ok":
                    writer.write(self.probe(session, "after"))
                if end != "none":
                    shares = {"startup": 2_500_000_000, "latency": measured}
                    writer.write(
                        records.End(end, reason, start, clock + 500_000_000, shares_ns=shares)
                    )
        return paths

    def controller_failure(self, session: Session, attempt: int, reason: str) -> None:
        """What the controller writes where it saw a session fail."""
        with records.Writer(self.file(session, attempt, "controller")) as writer:
            writer.write(self.header(session, attempt, "controller", -1, {}))
            writer.write(records.End("failed", reason, 0, 0, {}))

    def file(self, session: Session, attempt: int, host: str) -> Path:
        """Path of one file."""
        return self.path / "records" / host / records.file_name(session.id, attempt)

    def header(
        self, session: Session, attempt: int, host: str, rank: int, changes: dict[str, Any]
    ) -> records.Header:
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
            "weights_sha256": "" if controller else WEIGHTS,
            "device_emulated": 1.0 if controller else self.plan.host(host).device_emulated,
            "link_engine": engine,
            "link_emulated": engine == "relay",
            "tcp": {"tcp_congestion_control": "cubic"},
            "started_unix_ns": 1_790_000_000_000_000_000,
            "facts": {"cpu": "made up", "threads": 1},
            "versions": {"torch": "2.13.0", "python": "3.11.7"},
        }
        return records.Header(**(values | changes))

    def probe(self, session: Session, when: Literal["before", "after"]) -> records.Probe:
        """The link as the profile says it is."""
        path = self.plan.link(session.link).forward_path(len(session.placement))
        trip_ms = sum(condition.delay_ms for condition in path) + 0.1
        goodput = [(condition.rate_mbit or 9000) / WIRE_OVERHEAD for condition in path]
        transfers = tuple(
            records.Transfer(hop, size, (int((trip_ms + size * 8 / (rate * 1e3)) * 1e6),) * 3)
            for size in (8 << 10, 512 << 10)
            for hop, rate in enumerate(goodput)
        )
        trips = tuple(int((trip_ms + 0.01 * n) * 1e6) for n in range(5))
        erratic = any(condition.erratic for condition in path)
        return records.Probe(
            when, trips, tuple(goodput), transfers, self.datagrams(path) if erratic else None
        )

    def datagrams(self, path: Sequence[Condition], count: int = 600) -> records.Datagrams:
        """Datagrams as many as should come, all as late as half of them should be."""
        interval_ns = 2_000_000
        kept = [count]
        for condition in path:
            kept.append(round(kept[-1] * (1 - condition.mean_loss)))
        median_ms = chance.simulate(path, count, interval_ns / 1e6).round_trip_ms.mean
        times = (int(median_ms * 1e6),) * kept[-1]
        return records.Datagrams(interval_ns, tuple(kept[:-1]), tuple(kept[1:]), times)

    def point(
        self, writer: records.Writer, point: Point, rank: int, clock: int, seed: str, scale: float
    ) -> tuple[int, int]:
        """One rank's lines of one point: the clock after them and the time of the phases."""
        begin = clock
        relayed = self.engine == "relay" and self.plan.link(point.link).shaped
        if rank > 0 and not point.hops[rank - 1]:
            return clock, 0
        for phase in PHASES:
            # Each rank draws the same numbers: the source's latency holds both ranks' compute.
            random_ms = random.Random(f"{seed} {point.id} {phase}")
            for seq in range(WARMUP):
                item, clock = self.item(point, rank, "warmup", seq, clock, random_ms, scale)
                writer.write(item)
            start = clock
            for seq in range(WARMUP, WARMUP + self.items):
                item, clock = self.item(point, rank, phase, seq, clock, random_ms, scale)
                writer.write(item)
            payload = point.hop_bytes[rank] * (WARMUP + self.items)
            writer.write(
                records.PhaseEnd(
                    point=point.id,
                    phase=phase,
                    items=self.items,
                    start_ns=start,
                    end_ns=clock,
                    ended_by="minimum" if rank == 0 else None,
                    payload_sent_bytes=payload,
                    wire_sent_bytes=int(payload * WIRE_OVERHEAD),
                    wire_counter="sockets",
                    retransmitted_bytes=0,
                    relay_late_p99_ns=300_000 if relayed else None,
                    relay_forwarded=payload // 1448 if relayed else None,
                    relay_dropped=0 if relayed else None,
                )
            )
        if rank == 0:
            writer.write(records.PointEnd(point.id, "ok", None, True, "exact", 0.0))
        return clock + 50_000_000, clock - begin

    def item(
        self,
        point: Point,
        rank: int,
        phase: records.Phase,
        seq: int,
        clock: int,
        random_ms: random.Random,
        scale: float,
    ) -> tuple[records.Item, int]:
        """One item and when the next one starts."""
        stage, wire = expected_ms(self.plan, point)
        spread = scale * (1 + abs(random_ms.gauss(0, self.noise)))
        stage = [part * spread for part in stage]
        loaded = phase == "throughput"
        period = max(*stage, *wire) if loaded else sum(stage) + sum(wire)
        in_flight = 4 if point.window == "auto" else point.window
        latency = int((period * in_flight if loaded else period) * 1e6)
        factor = self.plan.host(point.placement[rank]).device_emulated
        computed = clock + int(stage[rank] * 1e6)
        bare = int(stage[rank] * 1e6 / factor)
        item = records.Item(
            point=point.id,
            phase=phase,
            seq=seq,
            ready_ns=clock,
            start_ns=clock,
            computed_ns=computed,
            compute_ns=bare,
            cpu_ns=int(bare * 0.99),
            sent_ns=computed if point.hops[rank] else None,
            done_ns=clock + latency if rank == 0 else None,
            latency_ns=latency if rank == 0 else None,
        )
        return item, clock + int(period * 1e6)


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
        way.delay_ms + 0.05 + size * 8 * WIRE_OVERHEAD / ((way.rate_mbit or 9000) * 1e3)
        if size
        else 0.0
        for way, size in zip(path, point.hop_bytes, strict=True)
    ]
    return stage, wire

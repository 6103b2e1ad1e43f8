"""Rank 0, the source: inputs begin and outputs end here, and it leads the other ranks."""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from paretopipe_worker.plan.labels import split_label
from paretopipe_worker.plan.plan import Point
from paretopipe_worker.plan.predict import certificate_s, certified_after
from paretopipe_worker.records.lines import PointBegin, PointEnd
from paretopipe_worker.session import clocks, hold, profile, rest
from paretopipe_worker.session.check import PointFailed
from paretopipe_worker.session.context import Context
from paretopipe_worker.session.control import Channel
from paretopipe_worker.session.legs import LegResult
from paretopipe_worker.session.measure import PointMeasurement, References
from paretopipe_worker.session.meeting import lane_names
from paretopipe_worker.session.probe import probe


@dataclass
class Source:
    """Measures every point of one session."""

    context: Context
    channels: Sequence[Channel]
    progress: Path
    _references: References = field(default_factory=dict)

    def __post_init__(self) -> None:
        plan, session = self.context.plan, self.context.session
        link, ranks = plan.link(session.link), len(session.placement)
        self._points = [plan.point(point) for point in session.points]
        seconds = [point.predicted_s for point in self._points]
        self._certified_after = certified_after(plan.experiment, link, ranks, seconds)
        # What is predicted after each number of points: the path, the next point, and so on.
        parts_s = [*seconds, 0.0]
        for number in self._certified_after:
            parts_s[number] += certificate_s(link, plan.experiment.tcp, ranks)
        self._left_s = list(itertools.accumulate(reversed(parts_s)))[::-1]

    def run(self) -> None:
        """Measure every point, and the path before, between and after them; dismiss the others.

        Before, hosts are measured at rest, and profile their programs.
        Clocks are compared before and after each point, since the offset between two comparisons is
        known the better the closer they are.

        Raises
        ------
        TransportError, ControlError
            When a link or a rank is lost: the session cannot go on.
        """
        with self.context.shares.kind("rest"):
            rest.rest(self.context, self.channels)
        profile.lead(self.context, self.channels)
        self._clocks("before")
        self._probe(0)
        self._clocks("between")
        for number, point in enumerate(self._points, start=1):
            self.measure(point, number)
            self._clocks("between")
            if number in self._certified_after:
                self._probe(number)
                if number < len(self._points):
                    self._clocks("between")
        self._clocks("after")
        self.dismiss()

    def _clocks(self, when: clocks.When) -> None:
        """Compare the clocks of the other ranks with this one's, and record the comparisons."""
        with self.context.shares.kind("clock"):
            for rank, channel in enumerate(self.channels, start=1):
                self.context.writer.write(clocks.compare(when, rank, channel))

    def _probe(self, after_points: int) -> None:
        """Measure and record the path, after so many points."""
        context = self.context
        link, ranks = context.plan.link(context.session.link), len(self.channels) + 1
        with context.shares.kind("probe"):
            taken = []
            for segment, part in link.probed.items():
                if segment is not None:
                    hold.hold(segment, context.link, self.channels)
                path, addresses = part.forward_path(ranks), context.addresses
                taken.append(
                    probe(after_points, path, context.path, self.channels, addresses, segment)
                )
                context.writer.write(taken[-1])
            # Of a trace the probe of the slowest segment is kept, so that windows fit all segments.
            # One that loses packets has no goodput, see `probe`.
            context.probe = min(taken, key=lambda each: min(each.goodput_mbit, default=math.inf))

    def dismiss(self) -> None:
        """Tell the other ranks that the session is over."""
        for channel in self.channels:
            channel.send({"do": "end"})

    def measure(self, point: Point, number: int) -> None:
        """Measure one point, or record why it failed."""
        self.context.writer.write(PointBegin(point.id))
        measurement = PointMeasurement(self.context, self.channels, point, self._references)
        reason = None
        ended: tuple[LegResult, ...] = ()
        try:
            ended = measurement.measure()
        except PointFailed as error:
            reason = str(error)
        finally:
            measurement.close()
        # A point counts only where all lanes measured it.
        reason = self.context.others.end(reason)
        self.context.writer.write(
            PointEnd(
                point=point.id,
                status="failed" if reason else "ok",
                reason=reason,
                gate=measurement.gate,
                output=measurement.check.output,
                max_relative_error=measurement.check.error,
                top1_agreement=measurement.top1.agreement if measurement.top1 else None,
            )
        )
        self._report(point, number, reason, ended)

    def _report(
        self, point: Point, number: int, reason: str | None, ended: Sequence[LegResult]
    ) -> None:
        """Append one line to the progress file, which whoever launched the session may follow."""
        latency, throughput = ended or (None, None)
        rate_per_s = throughput.rate_per_s if throughput else None
        context, session = self.context, self.context.session
        line = {
            "point": point.id,
            "lane": lane_names(context.plan, session)[session.lane] if session.group else None,
            "model": point.model,
            "link": point.link,
            "backend": point.backend,
            "split": split_label(point.split),
            "done": number,
            "of": len(session.points),
            "predicted_left_s": round(self._left_s[number], 1),
            "latency_ms": latency and round(statistics.median(latency.latencies_ns) / 1e6, 3),
            "images_per_s": rate_per_s and round(point.batch * rate_per_s, 3),
            "status": "failed" if reason else "ok",
            "reason": reason,
        }
        with self.progress.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

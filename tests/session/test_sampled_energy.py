"""The energy of a host that tells only its power, in a session of real stage processes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from paretopipe_worker.host import energy
from paretopipe_worker.host.powers import Power
from paretopipe_worker.records.energy import Energy, Rest
from paretopipe_worker.records.lines import LegEnd
from paretopipe_worker.session import rest
from tests.helpers.sessions import experiment, lab, led, of, only

pytestmark = pytest.mark.slow

LOW_W, HIGH_W = 2.0, 4.0


def test_a_leg_and_the_rest_before_it_are_sampled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watts = [LOW_W, HIGH_W]

    def read() -> float:
        watts.reverse()
        return watts[0]

    monkeypatch.setattr(energy, "counters", lambda _: ())
    monkeypatch.setattr(energy, "power", lambda _: Power("a chip", "the board", 500.0, read))
    monkeypatch.setattr(energy, "REST_S", 0.2)
    made = lab(tmp_path, experiment())
    session = only(made, "2")
    with torch.inference_mode(), led(made, session) as source:
        rest.rest(source.context, source.channels)
        source.measure(made.plan.point(session.points[0]), 1)
    lines = made.written(session, "edge")
    [rested] = of(Rest, lines)
    legs = of(LegEnd, lines)
    assert len(legs) == 2
    found = [(rested.energy, 0.2)]
    found += [(leg.energy or Energy(None, None, None, 0, 0), 0.05) for leg in legs]
    for used, least_s in found:
        assert used.reason is None and used.joules is not None, used
        assert (used.source, used.scope, used.rate_hz) == ("a chip", "the board", 500.0)
        assert used.seconds >= least_s
        # Of alternating samples every trapezoid has the same mean.
        assert used.joules == pytest.approx(used.seconds * (LOW_W + HIGH_W) / 2)
    assert len(of(Rest, made.written(session, "server"))) == 1

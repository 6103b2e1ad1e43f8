"""Sessions over links as hosts describe them: what is recorded, certified or refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from analysis.run import read
from analysis.tables.points import points
from paretopipe_worker.link.counters import CountersFile
from paretopipe_worker.records.lines import Header, LegEnd
from paretopipe_worker.records.probes import Probe
from tests.helpers.sessions import experiment, lab, only

pytestmark = pytest.mark.slow


@pytest.mark.long
def test_a_link_that_nobody_shaped_is_measured_and_not_certified(tmp_path: Path) -> None:
    links = [
        {"name": "rate20", "rate_mbit": 20},
        {"name": "lossy", "delay_ms": 20, "jitter_ms": 1, "loss_percent": 10},
    ]
    made = lab(tmp_path, experiment(links=links, splits={"cuts": ["5"]}))
    for session in made.plan.sessions:
        for probe in made.run(session).of(Probe):
            assert (probe.datagrams is not None) == (session.link == "lossy")
    table = points(read(made.results))
    assert not table["link_certified"].any() and not table["on_front"].any()
    said = table.groupby("link")["link_certificate"].first()
    assert "goodput forward" in said["rate20"] and "512 KiB back" in said["rate20"]
    assert "median delay" in said["lossy"] and "loss forward 0.0%" in said["lossy"]


def test_what_shapes_the_link_is_recorded_with_what_it_did(tmp_path: Path) -> None:
    state = tmp_path / "link"
    state.mkdir()
    tcp = {"tcp_congestion_control": "reno"}
    (state / "link.json").write_text(json.dumps({"engine": "relay", "tcp": tcp}))
    counters = CountersFile(state / "relay.bin")
    counters.forwarded(5_000_000)
    made = replace(lab(tmp_path, experiment(splits={"cuts": ["5"]})), link_state=state)
    done = made.run(only(made, "5"))
    header = done.lines[0][0]
    assert isinstance(header, Header)
    assert (header.link_engine, header.link_emulated, header.tcp) == ("relay", True, tcp)
    for end in done.of(LegEnd):
        # Nothing went through this relay while the stages ran.
        assert (end.relay_forwarded, end.relay_dropped, end.relay_late_p99_ns) == (0, 0, None)


def test_a_link_that_does_not_say_how_it_is_shaped_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link.json").write_text('{"engine": "magic", "tcp": {}}')
    made = replace(lab(tmp_path, experiment()), link_state=tmp_path)
    stage = made.start(made.plan.sessions[0], "edge")
    _, text = stage.communicate(timeout=60)
    assert stage.returncode == 2
    assert f"{tmp_path}/link.json: does not say how the link is shaped" in text

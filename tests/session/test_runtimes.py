"""Sessions whose stages different runtimes execute, over real sockets."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch

from analysis.run import read
from analysis.tables.points import points
from paretopipe_worker.cuts import EAGER
from paretopipe_worker.plan import plan as plans
from paretopipe_worker.plan import resume
from paretopipe_worker.records.lines import Header, Item, PointEnd
from paretopipe_worker.session.check import TOLERANCE
from tests.helpers.runtimes import executed_by
from tests.helpers.sessions import experiment, lab, led, of, only

pytestmark = pytest.mark.slow

CUTS = ["1", "3"]


def test_an_onnxruntime_stage_is_killed_resumed_and_attributed_as_any_other(
    tmp_path: Path,
) -> None:
    made = executed_by(lab(tmp_path, experiment(splits={"cuts": CUTS})), [EAGER, "onnxruntime"])
    [session] = made.plan.sessions
    stages = {host: made.start(session, host) for host in session.placement}
    made.first_point(stages.values())
    stages["server"].send_signal(signal.SIGKILL)
    for stage in stages.values():
        stage.communicate(timeout=60)
    [task] = resume.todo(made.plan, made.results)["sessions"]
    finished = [end.point for end in of(PointEnd, made.written(session, "edge"))]
    assert 0 < len(finished) < len(session.points)
    assert sorted([*finished, *task["points"]]) == sorted(session.points)
    again = made.run(session.only(task["points"]), attempt=2)
    assert again.of(Header, rank=1)[0].versions["onnxruntime"]
    assert resume.todo(made.plan, made.results)["done"] == 1
    ends = [*of(PointEnd, made.written(session, "edge")), *again.of(PointEnd)]
    for end in ends:
        split = made.plan.point(end.point).split
        assert (end.status, end.gate) == ("ok", True), end
        # Where the source has all operations, nothing but torch computed.
        if split == ("@first",):
            assert end.output == "exact"
        assert (end.max_relative_error or 0) < TOLERANCE
    assert "close" in {end.output for end in ends}, "onnxruntime cannot have computed"
    assert all((item.cpu_ns or 0) > 0 for item in again.of(Item, rank=1))
    table = points(read(made.results))
    assert table["attribution_ok"].tolist() == [True] * len(session.points)


def test_a_stage_that_cannot_be_loaded_fails_its_point_and_not_the_session(tmp_path: Path) -> None:
    made = executed_by(
        lab(tmp_path, experiment(splits={"cuts": CUTS})), ["onnxruntime", "onnxruntime"]
    )
    session = only(made, *CUTS)
    lost, damaged = (made.plan.point(point) for point in session.points)
    table = made.plan.tables[0]
    first, last = (
        made.cache / "programs" / plans.stage_name(table, *point.ends(rank))
        for rank, point in enumerate((lost, damaged))
    )
    first.unlink()
    last.write_bytes(last.read_bytes()[:-1])
    with led(made, session) as source, torch.inference_mode():
        source.measure(lost, 1)
        source.measure(damaged, 2)
        executed_by(made, ["onnxruntime"] * 2)  # which writes what is not there
        source.measure(lost, 1)
    reasons = [end.reason or "" for end in of(PointEnd, made.written(session, "edge"))]
    assert f"{first}: cannot be read: No such file or directory" == reasons[0]
    assert reasons[1].startswith("rank 1 (server, ") and f"{last}: is damaged" in reasons[1]
    assert reasons[2] == ""

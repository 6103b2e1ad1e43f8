"""A session one of whose hosts runs a background load, launched as the playbook does."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from paretopipe_worker.host import load
from paretopipe_worker.host.daemons import Process
from paretopipe_worker.plan import resume
from paretopipe_worker.plan.plan import Session
from paretopipe_worker.records.files import file_name
from paretopipe_worker.records.lines import End, Header, LegEnd, PointEnd
from tests.helpers.sessions import Finished, Lab, experiment, lab, of, only
from tests.helpers.waiting import until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.must_run,
    pytest.mark.skipif(shutil.which(load.TOOL) is None, reason=f"{load.TOOL} is not installed"),
]


def busy_lab(folder: Path) -> tuple[Lab, Session]:
    """A lab whose server is busy, and its session of one point."""
    made = lab(folder, experiment(busy=True), edge={}, server={"busy": {"cores": 1}})
    return made, only(made, "2")


def launched(made: Lab, session: Session, host: str, options: list[str]) -> dict[str, object]:
    """Launch one stage under supervision; what its supervisor said."""
    lease = made.results / "lease"
    lease.touch()
    words = [
        *("launch", "--run-dir", str(made.results), "--lease", str(lease), "--lease-s", "300"),
        *("--deadline-s", "120", "--name", f"{host}.1", "--threads", "1", *options),
    ]
    command = [sys.executable, "-m", "paretopipe_worker", *words, "--"]
    done = subprocess.run(
        [*command, *made.arguments(session, host)], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    said: dict[str, object] = json.loads(done.stdout)
    return said


def test_a_busy_host_runs_its_load_for_as_long_as_the_session(tmp_path: Path) -> None:
    made, session = busy_lab(tmp_path)
    [task] = resume.todo(made.plan, made.results)["sessions"]
    said = {
        host: launched(made, session, host, task["loads"].get(host, []))
        for host in session.placement
    }

    def ended() -> bool:
        files = [made.results / f"{host}.1.status.json" for host in session.placement]
        return all(json.loads(file.read_text())["state"] == "ended" for file in files)

    until(ended, "the end of both stages", 100)
    found = Finished(made, session)
    assert [end.status for end in found.of(PointEnd)] == ["ok"], found.of(End)
    loads = [found.of(Header, rank)[0].load for rank in range(2)]
    assert loads[0] is None and loads[1] is not None
    assert loads[1].startswith("stress-ng --quiet") and loads[1].endswith("--cpu=1")
    versions = [found.of(Header, rank)[0].versions.get(load.TOOL) for rank in range(2)]
    assert versions[0] is None and versions[1] is not None and "." in versions[1]
    used = [leg.health.others_cpu for leg in found.of(LegEnd, 1) if leg.health]
    assert len(used) == 2 and min(value or 0 for value in used) > 0.5, used
    pid = said["server"]["load_pid"]
    assert said["edge"]["load_pid"] is None and isinstance(pid, int)
    assert Process.running(pid) is None


def test_a_stage_that_was_to_have_a_load_beside_it_refuses_to_measure_without(
    tmp_path: Path,
) -> None:
    made, session = busy_lab(tmp_path)
    done = made.start(session, "server")
    _, text = done.communicate(timeout=60)
    assert done.returncode == 1, text
    path = made.results / "records" / "server" / file_name(session.id, 1)
    assert path.exists()
    [end] = of(End, made.written(session, "server"))
    assert end.reason == (
        "server: the background load of this host is not as planned: one is to run"
    )

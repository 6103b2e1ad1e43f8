"""How a sweep ends: where anything of the run is missing, in a way that a script can see."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from paretopipe_worker.plan import plan as plans
from paretopipe_worker.plan import planner, spec
from paretopipe_worker.plan.plan import Plan
from tests.helpers.attempts import write
from tests.helpers.sweeps import ROOT
from tests.helpers.tables import HOSTS, table

pytestmark = pytest.mark.slow

VERDICT = """\
- name: Judge a run
  hosts: localhost
  gather_facts: false
  tasks:
    - name: Check that everything was measured
      ansible.builtin.import_role:
        name: plan
        tasks_from: verdict
"""


@pytest.fixture
def run(tmp_path: Path) -> Plan:
    """A run of two sessions of five points each, of which nothing is measured yet."""
    experiment = spec.parse(
        {"models": ["tiny"], "links": ["none", {"name": "slow", "rate_mbit": 5}]}
    )
    made = planner.make("test", experiment, HOSTS, [table()])
    (tmp_path / "plan.json").write_text(plans.dump(made))
    return made


def judged(results: Path) -> subprocess.CompletedProcess[str]:
    """What the playbook says at its end."""
    playbook = results / "verdict.yml"
    playbook.write_text(VERDICT)
    command = Path(sys.executable).with_name("ansible-playbook")
    facts = ("-e", "plan_name=test", "-e", f"plan_results={results}")
    return subprocess.run(
        [command, playbook, "-i", os.devnull, *facts],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_ROLES_PATH": str(ROOT / "roles")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_points_that_failed_end_the_sweep_with_a_status_and_their_reasons(
    tmp_path: Path, run: Plan
) -> None:
    first, second = run.sessions
    # In an earlier attempt, and so not tried again by this sweep.
    write(run, tmp_path, first, 1, ok=first.points[:2], failed=first.points[2:])
    write(run, tmp_path, second, 1, failed=second.points)
    done = judged(tmp_path)
    assert done.returncode == 2
    assert "8 points failed by themselves:\n" in done.stdout
    for session, point in ((first, first.points[2]), (second, second.points[1])):
        split = run.point(point).split[0]
        assert f"  {session.id}, point {point} (split {split}): too slow\n" in done.stdout
    assert done.stdout.count("too slow") == 5
    assert "and 3 more, in results/test/points.csv\n" in done.stdout
    assert "Try them again with: -e run=test -e retry_failed=true" in done.stdout
    assert "sessions failed" not in done.stdout


def test_what_failed_once_and_was_measured_since_is_no_failure(tmp_path: Path, run: Plan) -> None:
    first, second = run.sessions
    write(run, tmp_path, first, 1, failed=first.points)
    write(run, tmp_path, first, 2, ok=first.points)
    write(run, tmp_path, second, 1, ok=second.points[1:], failed=second.points[:1], end=None)
    write(run, tmp_path, second, 2, ok=second.points[:1])
    done = judged(tmp_path)
    assert done.returncode == 0, done.stdout


def test_sessions_and_points_that_failed_are_told_together(tmp_path: Path, run: Plan) -> None:
    first, second = run.sessions
    write(run, tmp_path, first, 1, ok=first.points[1:], failed=first.points[:1])
    write(run, tmp_path, second, 1, ok=second.points[1:], end=None)
    done = judged(tmp_path)
    assert done.returncode == 2
    assert f"1 of 2 sessions failed:\n  {second.id}: its records are not complete\n" in done.stdout
    assert "1 points failed by themselves:\n" in done.stdout


def test_models_that_were_not_planned_end_the_sweep_with_a_status(
    tmp_path: Path, run: Plan
) -> None:
    told = "models[1]: model 'torn': building it failed"
    (tmp_path / "plan.json").write_text(plans.dump(replace(run, refused=(told,))))
    for session in run.sessions:
        write(run, tmp_path, session, 1, ok=session.points)
    done = judged(tmp_path)
    assert done.returncode == 2
    assert f"Models that were not measured (1):\n  {told}\n" in done.stdout
    assert "failed by themselves" not in done.stdout

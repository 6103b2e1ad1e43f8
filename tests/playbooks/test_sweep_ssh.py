"""A sweep over real SSH whose controller loses a host for good; test_rehearsal.py has the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from paretopipe_worker.records.files import read_records
from paretopipe_worker.records.lines import End
from tests.helpers.real_labs import made, stages
from tests.helpers.sshd import reason_without_sshd
from tests.helpers.waiting import until

pytestmark = [
    pytest.mark.alone,
    pytest.mark.long,
    pytest.mark.skipif(bool(reason_without_sshd()), reason=reason_without_sshd()),
]

# With this seed the slow session comes first, and in it first the point at which nothing crosses:
# then it has two points left, of over 5 and 10 s, longer than the lease.
SLOW_FIRST = """\
models: [paretopipe_worker.model.tiny:network]
links: [none, {name: slow, rate_mbit: 0.4}]
splits: {granularity: block, cuts: ["0"]}
phases: {min_items: 20, min_s: 0.1, max_s: 30, retries: 0}
seed: 3
"""


def test_a_host_that_drops_out_costs_its_session_and_clears_itself(tmp_path: Path) -> None:
    with made(tmp_path) as lab:
        near, far = lab.hosts
        before = near.link, far.link
        running = lab.start_sweep(SLOW_FIRST, "-e", '{"lease_s": 8}')
        running.prints("split 1 of 3")
        assert stages(far)
        assert far.link != before[1]

        far.kill_sshd()
        controller = lab.checkout.root / "results/run/records/controller"
        until(lambda: not far.tasks and far.link == before[1], f"nothing left on {far.name}")
        failure = until(lambda: [*controller.glob("*.jsonl")], "a record of the failure")
        far.start_sshd()

        running.wait().refused("1 of 2 sessions failed", f"{far.name}: ")
        [end] = [record for record in read_records(failure[0]) if isinstance(record, End)]
        assert far.name in str(end.reason)
        status = lab.checkout.results("run").points.set_index(["link", "split"])["status"]
        assert set(status["none"]) == {"ok"}
        assert status["slow"]["@first"] == "ok"
        assert status["slow"]["@last"] == "failed"
        assert (near.link, far.link) == before
        assert [near.tasks, far.tasks] == [[], []]

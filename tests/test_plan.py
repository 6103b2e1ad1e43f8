"""A plan survives its file, and tells how it differs from another."""

from __future__ import annotations

from pathlib import Path

import pytest

from paretopipe_worker import plan
from paretopipe_worker.fleet import Host
from tests.tables import HOSTS
from tests.test_planner import make


def test_a_plan_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    link = {"name": "x", "forward": {"delay_ms": 3, "loss_percent": 1}, "return": {"rate_mbit": 7}}
    made = make(links=["none", "wifi", link], tcp={"max_buffer_bytes": 1 << 20})
    path.write_text(plan.dump(made))
    loaded = plan.load(path)
    assert loaded == made
    assert loaded.link("wifi").forward_path(2)[0].distribution == "pareto"


@pytest.mark.parametrize(
    ("text", "reason"),
    [("{", "is not a plan"), ("[]", "is not a plan"), ('{"schema": 99}', "has schema 99")],
)
def test_a_damaged_plan_is_refused_by_name(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(plan.PlanError, match=reason):
        plan.load(path)


def test_differences_name_what_changed() -> None:
    assert plan.differences(make(), make()) == []
    assert plan.differences(make(), make(seed=5)) == ["experiment"]
    here, there = (
        make(models=[{"name": "tiny", "weights": f"/{where}/x.pt"}]) for where in ("here", "there")
    )
    assert plan.differences(here, there) == []
    other = (HOSTS[0], Host(name="server", data_address="10.0.0.9"))
    assert plan.differences(make(), make(hosts=other)) == ["inventory"]

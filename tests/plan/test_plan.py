"""A plan survives its file, and tells how it differs from another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from paretopipe_worker.plan import identity, plan, spec
from paretopipe_worker.plan.fleet import Busy, Host
from paretopipe_worker.prepare import prepare
from tests.helpers.sessions import lab
from tests.helpers.tables import HOSTS, make


def test_a_plan_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    link = {"name": "x", "forward": {"delay_ms": 3, "loss_percent": 1}, "return": {"rate_mbit": 7}}
    made = make(links=["none", "wifi", link], tcp={"max_buffer_bytes": 1 << 20})
    path.write_text(plan.dump(made))
    loaded = plan.read(path)
    assert loaded == made
    assert loaded.link("wifi").forward_path(2)[0].distribution == "pareto"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "is not a plan"),
        ("[]", "is not a plan"),
        ('{"schema": 3, "run": "\xff"}', "is not a plan"),
        ('{"schema": 99}', "has schema 99"),
    ],
)
def test_a_damaged_plan_is_refused_by_name(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(plan.PlanError, match=reason):
        plan.read(path)


def test_differences_name_what_changed() -> None:
    assert identity.differences(make(), make()) == []
    assert identity.differences(make(), make(seed=5)) == ["experiment"]
    here, there = (
        make(models=[{"name": "tiny", "weights": f"/{where}/x.pt"}]) for where in ("here", "there")
    )
    assert identity.differences(here, there) == []
    other = (HOSTS[0], Host(name="server", data_address="10.0.0.9"))
    assert identity.differences(make(), make(hosts=other)) == ["inventory"]


def test_what_is_only_said_or_predicted_does_not_change_what_is_measured(tmp_path: Path) -> None:
    made = make()
    hosts = tuple(replace(host, speed_hint=7.0) for host in HOSTS)
    told = make(hosts=hosts, description="the same in other words")
    assert told.points != made.points
    assert identity.differences(made, told) == []
    assert identity.digest(made) == identity.digest(told)
    path = tmp_path / "plan.json"
    path.write_text(plan.dump(made))
    assert identity.digest(plan.read(path)) == identity.digest(made)


def test_a_host_s_load_is_in_the_digest_only_where_hosts_are_to_be_busy() -> None:
    loaded = (replace(HOSTS[0], busy=Busy(2)), *HOSTS[1:])
    assert identity.digest(make(hosts=loaded)) == identity.digest(make())
    busy = [make(hosts=(replace(HOSTS[0], busy=Busy(n)), *HOSTS[1:]), busy=True) for n in (1, 2)]
    assert len({identity.digest(each) for each in (make(), *busy)}) == 3


def test_what_is_measured_is_in_the_digest() -> None:
    slower = (replace(HOSTS[0], device_emulated=2.0), HOSTS[1])
    others: list[dict[str, Any]] = [{"seed": 5}, {"hosts": slower}, {"phases": {"min_items": 21}}]
    digests = {identity.digest(each) for each in (make(), *(make(**keys) for keys in others))}
    assert len(digests) == 4
    assert identity.digest(replace(make(), run="other")) not in digests


def test_a_run_is_planned_anew_where_only_words_and_predictions_change(tmp_path: Path) -> None:
    asked = {"models": ["paretopipe_worker.model.tiny:network"], "splits": {"cuts": ["5"]}}
    made = lab(tmp_path, asked)
    hosts = [replace(host, speed_hint=9.0) for host in made.plan.hosts]

    def again(**keys: Any) -> plan.Plan:
        told = spec.parse(asked | keys)
        return prepare("test", told, hosts, made.results, made.cache)

    again(description="said otherwise")
    loaded = plan.read(made.results / "plan.json")
    assert (loaded.experiment.description, loaded.hosts[0].speed_hint) == ("said otherwise", 9)
    assert loaded.points != made.plan.points, "nothing was predicted anew"
    assert identity.digest(loaded) == identity.digest(made.plan)
    with pytest.raises(plan.PlanError, match="run 'test' was planned with other experiment; undo"):
        again(phases={"min_items": 21})

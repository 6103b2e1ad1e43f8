"""Points that a host cannot measure are known before the first session, a line for each cause."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from paretopipe_worker.cuts import FIRST, LAST, Footprint
from paretopipe_worker.plan import abilities, controller, known, planner, resume, spec
from paretopipe_worker.plan import plan as plans
from paretopipe_worker.plan.abilities import needs
from paretopipe_worker.plan.plan import Plan, PlanError
from paretopipe_worker.plan.refusals import told
from paretopipe_worker.plan.sending import Sending
from paretopipe_worker.plan.summary import summary
from tests.helpers.tables import HOSTS, table

ORT = "onnxruntime"
EDGE, SERVER = HOSTS
CPU = {"cpu": {"dtypes": ["float32", "float16"], "name": "not read"}}
EAGER_ALONE = {
    "eager": {"version": "2"},
    ORT: {"missing": "onnxruntime cannot be imported: no libfoo.so"},
}
BOTH = {"eager": {"version": "2"}, ORT: {"version": "1"}}


def planned(hosts: Any = HOSTS, operators: tuple[str, ...] = (), **keys: Any) -> Plan:
    """A plan of the tiny table on one link; splits at its three cuts, and the endpoints."""
    document = {"models": ["tiny"], "links": ["none"], **keys}
    experiment = spec.parse(document)
    tables = [replace(table(), dtype=each, operators=operators) for each in experiment.dtype]
    return planner.make("test", experiment, hosts, tables)


def parsed(found: dict[str, Any]) -> dict[str, abilities.Abilities]:
    """What hosts can do, as a sweep hands it over."""
    return known.parse(json.dumps({"abilities": found})).abilities or {}


def refused(made: Plan, **found: Any) -> tuple[list[str], set[tuple[str, ...]]]:
    """The lines about refused points, and where these are split."""
    refusals = abilities.refused(made, parsed(found))
    return told(refusals), {made.point(point).split for point in refusals}


def test_points_that_hosts_can_measure_are_not_refused() -> None:
    made = planned(runtimes=["eager", ORT])
    both = {"runtimes": BOTH, "devices": CPU}
    assert refused(made, edge=both, server=both) == ([], set())
    assert refused(made) == ([], set())


def test_a_runtime_that_does_not_work_on_a_host_is_refused_where_a_stage_needs_it() -> None:
    made = planned(runtimes=["eager", ORT])
    lines, splits = refused(made, server={"runtimes": EAGER_ALONE})
    assert lines == [
        "server: 4 points are not measured, since onnxruntime cannot be imported: no libfoo.so"
    ]
    assert (FIRST,) not in splits and (LAST,) in splits
    [line], _ = refused(made, edge={"runtimes": {"eager": {"version": "2"}}})
    assert line.endswith("since runtime onnxruntime is not known there; allowed: eager")


def test_a_device_that_is_not_there_is_refused() -> None:
    made = planned((EDGE, replace(SERVER, device="cuda:1")))
    lines, splits = refused(made, server={"runtimes": BOTH, "devices": CPU})
    assert lines == [
        "server: 4 points are not measured, since it has no device cuda:1; allowed: cpu"
    ]
    assert (FIRST,) not in splits
    made = planned((EDGE, replace(SERVER, device="cuda:1")), runtimes=ORT)
    can = {"eager": {"version": "2"}, ORT: {"version": "1", "devices": ["cpu"]}}
    devices = CPU | {"cuda:1": {"dtypes": ["float32"]}}
    [line] = refused(made, server={"runtimes": can, "devices": devices})[0]
    assert line.endswith("since runtime onnxruntime cannot use cuda:1 there; allowed: cpu")


def test_eight_bits_are_refused_where_a_stage_is_eager() -> None:
    made = planned(runtimes=["eager", ORT, {"server": ORT}], dtype=["float32", "int8"])
    lines, _ = refused(made)
    [line] = lines
    # All five of eager; of a mixed pipeline all but the one that is all on the server.
    assert line == (
        "dtype int8: 9 points are not measured, since runtime eager does not compute in it; "
        "allowed: runtime onnxruntime for every stage, dtype float32 or bfloat16 or float16"
    )
    assert line in summary(made)


def test_stages_that_could_not_be_exported_refuse_their_points_alone() -> None:
    made = planned(runtimes=["eager", ORT])
    [found] = made.tables
    name = plans.stage_name(found, "layer1", FIRST)
    lines, splits = refused(replace(made, unexported={name: "its stage is too large"}))
    assert lines == ["model tiny, float32: 1 point is not measured, since its stage is too large"]
    assert splits == {("layer1",)}


def test_what_models_need_and_a_host_lacks_refuses_the_points_of_these_models() -> None:
    made = planned(operators=("a::b.c",))
    lines, splits = refused(made, server={"lacking": {"a::b.c": "package 'a' is not there"}})
    assert lines == ["server: 4 points are not measured, since package 'a' is not there"]
    assert (FIRST,) not in splits
    assert refused(made, server={"lacking": {"other": "why"}}) == ([], set())


def test_what_a_host_tells_is_checked() -> None:
    with pytest.raises(PlanError, match=r"abilities\.edge\.devices\.cpu\.dtypes: "):
        parsed({"edge": {"devices": {"cpu": {}}}})


def test_hosts_are_asked_only_for_what_their_points_need() -> None:
    plain = {"operators": [], "requirements": [], "packages": [], "asked": False}
    assert needs(planned()) == {"edge": plain, "server": plain}
    fast = plain | {"packages": [ORT], "asked": True}
    assert needs(planned(runtimes=["eager", {"server": ORT}])) == {"edge": plain, "server": fast}
    on_gpu = planned((replace(EDGE, device="cuda:0"), SERVER))
    assert needs(on_gpu) == {"edge": plain | {"asked": True}, "server": plain}
    model = {"name": "tiny", "requirements": ["b>1", "a"]}
    made = planned(models=[model], operators=("a::b.c",))
    assert needs(made)["server"] == plain | {"operators": ["a::b.c"], "requirements": ["a", "b>1"]}


def test_refused_points_are_recorded_and_the_rest_is_left_to_measure(tmp_path: Path) -> None:
    made = planned(runtimes=["eager", ORT])
    (tmp_path / "plan.json").write_text(plans.dump(made))
    refusals = abilities.refused(made, parsed({"edge": {"runtimes": {}}}))
    controller.refuse(made, tmp_path, refusals)
    [task] = resume.todo(made, tmp_path, sending=Sending(made, refusals))["sessions"]
    # No stage of `@last` is on the edge.
    assert {made.point(point).split for point in refusals} >= {(FIRST,), ("layer0",)}
    assert set(task["points"]) == {point.id for point in made.points} - set(refusals)


def test_hosts_are_sent_the_files_of_their_stages_and_no_tensors_for_these() -> None:
    footprint = Footprint(held=((1, (0,)), (1, (1, 2, 3))), peaks=(0, 0, 0, 0))
    experiment = spec.parse({"models": ["tiny"], "links": ["none"], "runtimes": [ORT]})
    made = planner.make("test", experiment, HOSTS, [replace(table(), footprint=footprint)])
    packed: list[Any] = []

    def pack(whole: str, share: Any) -> str:
        packed.append(share)
        return f"part{len(packed)}"

    sending = Sending(made, {}, pack)
    for session in made.sessions:
        sending.add(session)
    [known] = made.tables
    stages = {
        host: {plans.stage_name(known, before, after) for before, after in ends}
        for host, ends in {
            "edge": [(LAST, FIRST), *((LAST, name) for name in known.names)],
            "server": [(LAST, FIRST), *((name, FIRST) for name in known.names)],
        }.items()
    }
    for host, names in stages.items():
        assert {name for name in sending.files[host] if name.endswith(".stage")} == names
    # The source has all tensors, to hold the stages against the whole program; the server none.
    assert packed == [()]
    assert "part1" in sending.files["server"] and "part1" not in sending.files["edge"]

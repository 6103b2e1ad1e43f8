"""What executes each stage: chosen by experiment and inventory, and part of what a point is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from paretopipe_worker.cuts import FIRST, LAST
from paretopipe_worker.plan import executing, identity, planner, spec
from paretopipe_worker.plan import plan as plans
from paretopipe_worker.plan.plan import Plan, PlanError
from tests.helpers.tables import HOSTS, table

ORT = "onnxruntime"
EDGE, SERVER = HOSTS
FAST = (EDGE, replace(SERVER, runtime=ORT))


def planned(runtimes: Any = None, hosts: Any = HOSTS, **keys: Any) -> Plan:
    """A plan of the tiny table on one link."""
    document = {"models": ["tiny"], "links": ["none"], **keys}
    experiment = spec.parse(document | ({} if runtimes is None else {"runtimes": runtimes}))
    return planner.make("test", experiment, hosts, [table()])


@pytest.mark.parametrize(
    ("runtimes", "hosts", "found"),
    [
        (None, HOSTS, {()}),
        ("eager", FAST, {()}),
        (None, FAST, {("eager", ORT)}),
        (["eager", ORT], HOSTS, {(), (ORT, ORT)}),
        ([{"edge": ORT}], FAST, {(ORT, ORT)}),
        # Both come to the same.
        (["inventory", {"server": ORT}, "eager", {"edge": "eager"}], HOSTS, {(), ("eager", ORT)}),
        (["inventory", {"server": ORT}], FAST, {("eager", ORT)}),
    ],
)
def test_points_have_the_runtimes_of_the_experiment_or_of_the_inventory(
    runtimes: Any, hosts: Any, found: set[tuple[str, ...]]
) -> None:
    made = planned(runtimes, hosts)
    assert {point.runtimes for point in made.points} == found
    assert len(made.points) == 5 * len(found) == len({point.id for point in made.points})
    assert len(made.sessions) == 1


def test_points_that_are_eager_keep_their_ids_and_a_plan_of_them_its_digest() -> None:
    before = {point.id for point in planned().points}
    both = planned(["eager", ORT]).points
    assert {point.id for point in both if not point.runtimes} == before
    assert not before & {point.id for point in both if point.runtimes}
    # What executes is a property of points; that a host could have another one changes nothing.
    assert identity.digest(planned()) == identity.digest(planned("inventory"))
    on_gpu = planned(hosts=(EDGE, replace(SERVER, device="cuda:0")))
    assert identity.differences(planned(), on_gpu) == ["inventory"]
    assert identity.differences(planned(), planned(ORT)) == ["experiment"]


def test_a_plan_with_runtimes_is_read_as_it_was_written(tmp_path: Any) -> None:
    made = planned(["eager", {"server": ORT}])
    (tmp_path / "plan.json").write_text(plans.dump(made))
    assert plans.read(tmp_path / "plan.json") == made


@pytest.mark.parametrize(
    ("runtimes", "said"),
    [
        ("onnx", "runtimes[0]: must be 'inventory', one of 'eager', 'onnxruntime' (for all hosts)"),
        ([["eager"]], "runtimes[0]: must be 'inventory', one of"),
        ([{"edge": "gpu"}], "runtimes[0]: host 'edge' must have one of 'eager', 'onnxruntime'; g"),
        ([{}], "runtimes[0]: must be"),
        (["eager", "eager"], "runtimes: must not repeat a value"),
        ([{"edge": ORT}, {"edge": ORT}], "runtimes: must not repeat a value"),
    ],
)
def test_runtimes_that_do_not_exist_are_refused(runtimes: Any, said: str) -> None:
    with pytest.raises(spec.SpecError) as refused:
        spec.parse({"models": ["tiny"], "runtimes": runtimes}, "a.yml")
    assert str(refused.value).startswith(f"a.yml: {said}")


def test_a_host_that_is_not_in_the_inventory_is_refused() -> None:
    with pytest.raises(PlanError, match=r"runtimes\[1\]: unknown host 'edgy'; .* edge, server"):
        planned(["eager", {"edgy": ORT}])


def test_stages_in_files_are_those_with_operations_of_ranks_that_are_not_eager() -> None:
    made = planned([{"server": ORT}])
    files = {point.split[0]: list(executing.in_files(point)) for point in made.points}
    assert files == {FIRST: [], LAST: [1], "layer0": [1], "layer1": [1], "layer2": [1]}
    asked = set(executing.asked_files(made, table()))
    assert asked == {(name, FIRST) for name in files if name != FIRST}
    everywhere = {point.split[0]: point for point in planned(ORT).points}
    assert [*executing.in_files(everywhere["layer1"])] == [0, 1]
    assert [*executing.in_files(everywhere[FIRST])] == [0]
    assert len(set(executing.asked_files(planned(ORT), table()))) == 7

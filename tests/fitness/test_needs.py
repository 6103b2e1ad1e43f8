"""What hosts are asked and held against where there is a plan: disk, memory, devices, ways."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from paretopipe_worker.cuts import Footprint
from paretopipe_worker.fitness import needs
from paretopipe_worker.fitness.questions import questions
from paretopipe_worker.plan import plan as plans
from paretopipe_worker.plan.plan import Plan
from tests.helpers import fake_plan
from tests.helpers.answers import answer, judged
from tests.helpers.fake_plan import HOSTS, THREE

FOOTPRINT = Footprint(
    held=((20_000_000, (0,)), (30_000_000, (1,)), (40_000_000, (2,))),
    peaks=(100_000, 200_000, 300_000),
)
"""Of a tiny table's three parts."""


def planned() -> Plan:
    """A plan of its two cuts and its endpoints."""
    known = replace(fake_plan.tiny_table(), footprint=FOOTPRINT)
    return fake_plan.make(known, splits={"granularity": "block", "cuts": ["body.0", "body.1"]})


def test_a_host_is_sent_programs_and_the_tensors_of_its_own_stages(tmp_path: Path) -> None:
    made = planned()
    program, _ = plans.program_files(made.tables[0], plans.kept(tmp_path))
    program.parent.mkdir()
    program.write_bytes(b"x" * 5000)
    whole = {point.id for point in made.points if point.split[0] not in ("body.0", "body.1")}
    # Of the whole model each host is sent all, else pi has at most the first two parts.
    assert needs.sent_bytes(made, "pi", tmp_path, ()) == 5000 + 90_000_000
    assert needs.sent_bytes(made, "pi", tmp_path, whole) == 5000 + 50_000_000
    assert needs.sent_bytes(made, "server", tmp_path, whole) == 5000 + 70_000_000
    assert needs.sent_bytes(made, "nobody", tmp_path, ()) == 0


def test_a_disk_must_hold_what_is_sent_unless_it_is_there() -> None:
    made = planned()
    need = 90_000_000 + 2 * 10**6  # with the package and the plan
    enough = {"pi": answer(user__disk__free_bytes=need)}
    short = {"pi": answer(user__disk__free_bytes=need - 1)}
    there = {"pi": answer(user__disk__free_bytes=10**6, user__disk__held_bytes=need)}
    assert judged(enough, made) == judged(there, made) == []
    [found] = judged(short, made)
    assert (found.host, found.check, found.note) == ("pi", "disk", False)
    assert "(1 MB for the worker package, 91 MB for programs, tensors and" in found.text


def test_stages_that_do_not_fit_into_memory_are_noted_by_host() -> None:
    small = answer(user__free_memory_bytes=75_000_000)
    [found] = judged({"pi": answer(), "server": small}, planned())
    assert (found.host, found.check, found.note) == ("server", "memory", True)
    assert found.text.startswith("rank 1: 1 point is not measured, since the stage there needs")


def test_a_gpu_that_is_asked_for_and_not_there_is_noted() -> None:
    gpu = replace(HOSTS[0], device="cuda:1")
    [found] = needs.devices(gpu, answer(user__gpus=["NVIDIA T4, 550"]).user)
    assert (found.check, found.note) == ("gpu", True)
    assert "device cuda:1 is asked for, and this host has: NVIDIA T4, 550" in found.text
    assert not [*needs.devices(gpu, answer(user__gpus=["a", "b"]).user)]


def test_hosts_call_those_with_which_the_plan_connects_them_and_no_others() -> None:
    made = fake_plan.make(
        fake_plan.tiny_table(), hosts=THREE, placements=[["pi", "server"], ["server", "cloud"]]
    )
    asked = questions(THREE, made, ["pi", "server", "cloud"], "token")
    called = {
        name: {(call["peer"], call["port"]) for call in question["ways"]["calls"]}
        for name, question in asked.items()
    }
    assert called == {
        "pi": {("server", 29400)},
        "server": {("pi", 29400), ("pi", 29401), ("cloud", 29400)},
        "cloud": {("server", 29400), ("server", 29401)},
    }
    for name, question in asked.items():
        callers = {tuple(caller.split()) for caller in question["ways"]["callers"]}
        assert callers == {
            (peer, str(port)) for peer in called for to, port in called[peer] if to == name
        }
    # Nobody calls a host that is not asked, or waits for it.
    alone = questions(THREE, made, ["pi"], "token")
    assert alone["pi"]["ways"]["calls"] == alone["pi"]["ways"]["callers"] == []
    assert alone.keys() == {"pi"}


def test_hosts_are_asked_for_the_links_and_ports_of_the_plan() -> None:
    made = fake_plan.make(
        fake_plan.tiny_table(), hosts=THREE, placements=[["pi", "server"]], links=["none", "wifi"]
    )
    asked = questions(THREE, made, [host.name for host in THREE], "token")
    assert [link["name"] for link in asked["pi"]["links"]] == ["wifi"]
    assert [way["peer"] for way in asked["pi"]["links"][0]["ways"]] == ["10.0.0.2"]
    assert asked["pi"]["ports"] == [29400, 29401]
    assert asked["cloud"] == {"ports": [], "links": [], "ways": None}
    shared = fake_plan.make(
        fake_plan.tiny_table(), hosts=THREE, placements=[["pi", "server"]], sources=[2]
    )
    asked = questions(THREE, shared, [host.name for host in THREE], "token")
    assert asked["server"]["ports"] == [29400, 29401, 29402, 29403]
    assert ("server", 29401) in {
        (call["peer"], call["port"]) for call in asked["cloud"]["ways"]["calls"]
    }


def test_without_a_plan_each_host_calls_its_neighbours() -> None:
    apart = (*THREE[:2], replace(THREE[2], data_address="fd00::3"))
    asked = questions(apart, None, [host.name for host in apart], "token")
    assert {call["peer"] for call in asked["pi"]["ways"]["calls"]} == {"server"}
    assert asked["cloud"]["ways"]["calls"] == []
    assert asked["cloud"]["ports"] == [29400, 29401]

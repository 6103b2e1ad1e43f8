"""What a sweep refuses, and that it does so before anything is measured."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from paretopipe_worker.model.weights import read_weights
from paretopipe_worker.shaping.interfaces import probe_kernel
from tests.helpers.labs import SMALLEST, nothing_left, shaped, throwaway, watched
from tests.helpers.namespaces import reason_without_namespaces
from tests.helpers.sweeps import Checkout

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(reason_without_namespaces()), reason=reason_without_namespaces()),
]

TINY = "experiments/tiny.yml"
DELAYED = SMALLEST.replace("rate_mbit: 20", "rate_mbit: 20, delay_ms: 200")

WIDE = """\
models: [tests.helpers.networks:wide]
links: [none]
window: [2]
splits: {granularity: block, cuts: ["2", "3"]}
phases: {min_items: 20, min_s: 0.1, max_s: 30, retries: 0}
"""
"""All of the model's tensors are 0.75 MB; its stages at these cuts hold about half each."""

MISSPELT = """\
all:
  children:
    stages:
      hosts:
        edge: {data_prot: 29500}
        server: {my_note: mine, used_below: 29500, data_port: "{{ used_below }}"}
      vars: {worker_govenor: powersave}
"""
"""Beside the inventory for which it is given; two of its variables are misspelt."""

TO_THE_ATTIC = SMALLEST + "placements: [[edge, attic]]\n"

WITH_A_HOST_THAT_IS_DOWN = """\
all:
  children:
    stages:
      children:
        local_lab:
        remote:
    remote:
      hosts:
        attic:
          ansible_host: 127.0.0.1
          ansible_port: {port}
          data_address: 10.0.0.3
    local_lab:
      hosts:
        edge: {{data_address: 10.0.0.1}}
        server: {{data_address: 10.0.0.2}}
      vars:
        ansible_connection: local
        ansible_python_interpreter: "{{{{ local_lab_dir }}}}/{{{{ inventory_hostname }}}}/python"
        ansible_become: false
        worker_home: "{{{{ local_lab_dir }}}}/{{{{ inventory_hostname }}}}/home"
        worker_python: "{{{{ ansible_playbook_python }}}}"
        worker_root_dir: "{{{{ local_lab_dir }}}}/{{{{ inventory_hostname }}}}/root"
        worker_governor: ""
        netem_state_dir: "{{{{ local_lab_dir }}}}/{{{{ inventory_hostname }}}}/link"
        local_lab_dir: "{{{{ inventory_dir }}}}/.lab"
"""


@pytest.fixture
def copy(tmp_path: Path) -> Iterator[Checkout]:
    with throwaway(tmp_path / "checkout") as made:
        yield made


@pytest.mark.must_run
def test_what_cannot_be_measured_is_refused_before_any_host_is_touched(copy: Checkout) -> None:
    network = "models: [paretopipe_worker.model.tiny:network]\nlinks: "
    cases = {
        "a": ("models: [mobilenet_v2]\nlinks: [none]\nreplicate: 3", "replicate"),
        "b": ("models: [paretopipe_worker.model.tiny:nothing]\nlinks: [none]", "nothing"),
        "../c": (SMALLEST, "run: '../c' cannot name a folder; allowed are up to 100 letters"),
        "d": (network + "[{name: x, loss_percent: 100}]", "links[0].loss_percent: loses 100 %"),
    }
    started = {
        said: copy.start_sweep(copy.write(f"experiments/bad{number}.yml", experiment), run)
        for number, (run, (experiment, said)) in enumerate(cases.items())
    }
    (copy.root / "results/planned").mkdir(parents=True)
    plan = ("-m", "paretopipe_worker", "prepare", "--experiment", TINY, "--run", "planned")
    fleet = json.dumps(
        [
            {"name": "edge", "data_address": "10.0.0.1", "threads": 1, "device_emulated": 3},
            {"name": "server", "data_address": "10.0.0.2", "threads": 1},
        ]
    )
    places = ("--results", "results/planned", "--cache", ".cache")
    copy.run(".venv/bin/python", *plan, "--fleet", fleet, *places).succeeded()
    smallest = copy.write("experiments/other.yml", SMALLEST)
    other = "run 'planned' was planned with other experiment"
    started[other] = copy.start_sweep(smallest, "planned")
    for said, running in started.items():
        done = running.wait()
        done.refused(said)
        assert "PLAY [Prepare the hosts]" not in done.output
    assert not (copy.root / ".lab").exists()


@pytest.mark.must_run
def test_how_a_sweep_cannot_be_started_is_said_before_any_host_is_touched(copy: Checkout) -> None:
    variables = '{"spec": "x", "experimnt": "x", "lease_s": "abc", "retry_failed": "maybe"}'
    cases = {
        ("--limit", "edge"): ["--limit edge leaves out server, localhost", "placements"],
        ("--limit", "server,localhost"): ["--limit server,localhost leaves out edge:"],
        ("--tags", "plan"): ["--tags plan: leaves out tasks", "prepare, sweep, analyse"],
        ("--skip-tags", "sweep"): ["--skip-tags sweep: leaves out tasks that others need"],
        ("--tags", "sweep"): ["--tags sweep goes on with a run", "no results/a/plan.json"],
        ("-i", "misspelt.yml"): [
            "edge, server: worker_govenor: nothing reads this variable of the inventory (did you "
            "mean 'worker_governor'?)",
            "edge: data_prot: nothing reads this variable of the inventory (did you mean "
            "'data_port'?)",
        ],
        ("-e", variables): [
            "-e spec: nothing reads a variable of this name; allowed: experiment, run, ",
            "-e experimnt: nothing reads a variable of this name (did you mean 'experiment'?)",
            "-e lease_s: must be a number; got 'abc'",
            "-e retry_failed: must be true or false; got 'maybe'",
        ],
        ("-e", "lease_s=1"): ["lease_s: a number of seconds above 2; got 1.0"],
    }
    copy.write("misspelt.yml", MISSPELT)
    started = {words: copy.start_sweep(TINY, "a", *words) for words in cases}
    for words, running in started.items():
        running.wait().refused(*cases[words])
    copy.root.chmod(0o777)
    said = [f"Ansible has read no configuration, not {copy.root}/ansible.cfg", "chmod o-w"]
    copy.sweep(TINY, "a").refused(*said)
    assert not (copy.root / ".lab").exists() and not (copy.root / "results").exists()


@pytest.mark.must_run
def test_in_check_mode_a_sweep_is_planned_and_nothing_is_touched(copy: Checkout) -> None:
    # Numbers and truth values come as text from the command line.
    given = ("device_emulated=1", "threads=2", "data_port=29500", "common_install=false")
    words = [word for each in given for word in ("-e", each)]
    done = copy.sweep(TINY, "a", "--check", *words).succeeded()
    flat = " ".join(done.output.split())
    assert "16 points (1 models, 2 links, 1 backends), 1 replicates, 2 sessions" in flat
    assert "This was a trial (--check)" in flat
    assert "PLAY [Prepare the hosts]" not in done.output
    assert not (copy.root / ".lab").exists() and not (copy.root / "results").exists()


@pytest.mark.long
def test_points_whose_stages_need_too_much_memory_are_refused_and_the_rest_is_measured(
    copy: Checkout,
) -> None:
    wide = copy.write("experiments/wide.yml", WIDE)
    done = copy.sweep(wide, "wide", "-e", "memory_mb=0.6")
    said = "1 point is not measured, since the stage there needs 0.757 MB of memory; allowed"
    lines = (f"edge, rank 0: {said} are 0.6 MB", f"server, rank 1: {said} are 0.6 MB")
    done.refused(*lines, "1 of 1 sessions to go: 2 points", "2 points failed by themselves")
    assert done.output.index("is not measured") < done.output.index("session 1 of 1")
    table = copy.results("wide").points.set_index("split")
    assert table["status"].to_dict() == {
        "@first": "failed",
        "2": "ok",
        "3": "ok",
        "@last": "failed",
    }
    assert table.loc["@last", "reason"].startswith("server, rank 1: its stage needs 0.757 MB")
    for host, rows in (("edge", {"0.weight"}), ("server", {"6.weight"})):
        files = (copy.root / ".lab" / host / "home/programs").glob("*.safetensors")
        held = {name for file in files for name in read_weights(file)}
        assert held & {"0.weight", "6.weight"} == rows


@pytest.mark.long
@pytest.mark.skipif(bool(probe_kernel()["netem"]), reason="this kernel has netem")
def test_delay_without_netem_is_refused_before_anything_is_measured(
    copy: Checkout,
) -> None:
    delayed = copy.write("experiments/delayed.yml", DELAYED)
    running = copy.start_sweep(delayed, "delayed", "-e", "netem_emulate=false")
    with watched(copy, running) as lab:
        before = lab.links()
        running.wait().refused(
            "sch_netem", "edge netem ", os.uname().release, "linux-modules-extra"
        )
        nothing_left(copy)
        assert lab.links() == before
        assert not shaped(before)
    assert not copy.results("delayed").raw()


@pytest.mark.must_run
@pytest.mark.skipif(shutil.which("ssh") is None, reason="ssh (openssh-client) is not installed")
def test_a_host_that_is_down_is_named_and_nothing_is_measured(
    copy: Checkout,
) -> None:
    with socket.socket() as closed:  # bound and not listening: nobody else gets the port
        closed.bind(("127.0.0.1", 0))
        inventory = WITH_A_HOST_THAT_IS_DOWN.format(port=closed.getsockname()[1])
        path = copy.write("fleet.yml", inventory)
        experiment = copy.write("experiments/attic.yml", TO_THE_ATTIC)
        running = copy.start_sweep(experiment, "down", inventory=str(path))
        with watched(copy, running) as lab:
            before = lab.links()
            done = running.wait()
            done.refused("attic reachable ", "127.0.0.1", "Connection refused")
            nothing_left(copy)
            assert lab.links() == before
    assert not copy.results("down").raw()

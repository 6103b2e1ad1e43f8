"""A lab's life rehearsed over real SSH, by the public commands only.

Two hosts like Raspberry Pis and one like a server are prepared, prepared again, measured, analysed
and sealed. Meanwhile one of the Pis is rebooted, and its points are resumed. What is sealed is
measured again, the links are put back, and at last everything is removed. The fixtures from
``provisioned`` to ``uninstalled`` are one story: each goes on where the one before it stopped.

Not rehearsed is what differs between devices: their processors, and the time that the packages of
a Raspberry Pi take to install. The hosts' Python is that of the tests.
"""

from __future__ import annotations

import os
import socket
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
import pytest

from paretopipe_worker.shaping.interfaces import probe_kernel
from tests.helpers.machines import USER_ID, Host, Kind, Task, reason_without_sshd
from tests.helpers.real_labs import ANSIBLE, Lab, made, stages
from tests.helpers.sshd import WORKER_HOME
from tests.helpers.sweeps import Done
from tests.helpers.waiting import until

pytestmark = [
    pytest.mark.alone,
    pytest.mark.must_run,
    pytest.mark.skipif(bool(reason_without_sshd()), reason=reason_without_sshd()),
]

FLEET = {"pi": Kind(), "pi2": Kind(), "server": Kind()}
NAME = "experiments/rehearsal.yml"
EXPERIMENT = """\
models: [paretopipe_worker.model.tiny:network]
links: [{name: rates, forward: {rate_mbit: 40}, back: {rate_mbit: 60}}]
placements: [[pi, pi2, server], [pi, server]]
window: 6
splits: {granularity: block, cuts: ["1", "3"]}
phases: {min_items: 8, min_s: 0.5, max_s: 20, retries: 0}
seed: 1
"""
TWO = "r0-rates-tcp-paretopipe_worker.model.tiny.network-p1"
THREE = "r0-rates-tcp-paretopipe_worker.model.tiny.network-p0"
IDLE = f"{THREE}-first2"
"""The session in which the last of three hosts idles."""

SHAPE = """\
- name: Shape the links
  hosts: stages
  gather_facts: false
  tasks:
    - name: Gather the facts of the host
      ansible.builtin.import_role:
        name: common
        tasks_from: preflight

    - name: Find the worker package
      ansible.builtin.import_role:
        name: worker
        tasks_from: find

    - name: Shape the link
      ansible.builtin.import_role:
        name: netem
      vars:
        netem_profile:
          name: shaped
          ways:
            - {peer: "{{ shaped_peers | first }}", condition: "{{ shaped_condition }}"}
        netem_address: "{{ data_address }}"
        netem_ports: [29400]
        netem_lease: "{{ worker_home }}/lease"
        netem_lease_s: 120
        shaped_peers: >-
          {{ groups.stages | map('extract', hostvars, 'data_address')
             | difference([data_address]) }}
"""
DEAD = ("-e", '{"shaped_condition": {"loss_percent": 100}}')


@dataclass(frozen=True)
class Provisioned:
    """A fleet that was prepared twice, and what it was before."""

    lab: Lab
    links: list[str]
    files: list[dict[str, str]]
    changed: tuple[dict[str, int], dict[str, int]]


@pytest.fixture(scope="module")
def provisioned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provisioned]:
    with made(tmp_path_factory.mktemp("rehearsal"), FLEET) as lab:
        links = [host.link for host in lab.hosts]
        files = [host.files() for host in lab.hosts]
        first, second = (lab.play("playbooks/provision.yml") for _ in range(2))
        yield Provisioned(lab, links, files, (lab.changed(first), lab.changed(second)))


def test_what_is_prepared_needs_no_change_again(provisioned: Provisioned) -> None:
    first, second = provisioned.changed
    assert min(first.values()) > 0
    assert second == provisioned.lab.everywhere(0)


@dataclass(frozen=True)
class Rebooted:
    """A sweep in whose session of three stages a host was rebooted after the first point."""

    done: Done
    points: pd.DataFrame
    records: dict[str, bytes]
    stages: dict[str, list[Task]]


@pytest.fixture(scope="module")
def rebooted(provisioned: Provisioned) -> Rebooted:
    lab = provisioned.lab
    lab.checkout.write(NAME, EXPERIMENT)
    chosen = ("-e", f"experiment={NAME}", "-e", "run=first", "-e", "session_poll_s=0.3")
    running = lab.start(ANSIBLE, "sweep.yml", *chosen)
    running.prints(f"{THREE},")
    until(lambda: "split 1 of 3" in running.output.rpartition(f"{THREE},")[2], "a point of three")
    found = {host.name: stages(host) for host in lab.hosts}
    host = lab.hosts[1]
    host.stop()
    host.start()
    done = running.wait()
    results = lab.checkout.results("first")
    return Rebooted(done, results.points, results.raw(), found)


def test_a_host_that_is_rebooted_costs_points_of_its_session_only(
    provisioned: Provisioned, rebooted: Rebooted
) -> None:
    lab = provisioned.lab
    for host, found in rebooted.stages.items():
        assert [task.user_id for task in found] == [USER_ID], host
    rebooted.done.refused("1 of 3 sessions failed", f"{THREE}: ", "pi2: ", "-e run=first")
    assert rebooted.done.code == 2
    status = rebooted.points.groupby("placement")["status"].agg(list).to_dict()
    assert set(status["pi>server"]) == {"ok"}
    assert status["pi>pi2>server"].count("failed") in (1, 2), rebooted.done.output
    assert [host.tasks for host in lab.hosts] == [[], [], []]
    assert [host.link for host in lab.hosts] == provisioned.links

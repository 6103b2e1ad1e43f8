"""Sweeps over real SSH, as a user who is not root, to hosts made from ``inventory/lab``."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from paretopipe_worker.records.files import read_records
from paretopipe_worker.records.lines import End
from paretopipe_worker.shaping.interfaces import probe_kernel
from tests.helpers.sshd import USER_ID, WORKER_HOME, Fleet, Host, Task, fleet, reason_without_sshd
from tests.helpers.sweeps import Checkout, Done, Running, checkout
from tests.helpers.waiting import until

pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(bool(reason_without_sshd()), reason=reason_without_sshd()),
]

LAB = "inventory/lab"
DEADLINE_S = 240.0
"""Seconds a sweep may take while other tests have a core."""

SHORT = """\
models: [paretopipe_worker.model.tiny:network]
links: [none, {name: rate20, rate_mbit: 20}]
splits: {granularity: block, cuts: ["2"]}
phases: {min_items: 20, min_s: 0.1, max_s: 10, retries: 0}
seed: 1
"""

# With this seed the slow session comes first, and in it first the point at which nothing crosses:
# then it has two points left, of over 5 and 10 s, longer than the lease.
SLOW_FIRST = """\
models: [paretopipe_worker.model.tiny:network]
links: [none, {name: slow, rate_mbit: 0.4}]
splits: {granularity: block, cuts: ["0"]}
phases: {min_items: 20, min_s: 0.1, max_s: 30, retries: 0}
seed: 3
"""

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


@dataclass(frozen=True)
class Lab:
    """A fleet, and the checkout from which it is used."""

    fleet: Fleet
    checkout: Checkout

    @property
    def hosts(self) -> tuple[Host, ...]:
        """The hosts in the order of the inventory."""
        return self.fleet.hosts

    def start_sweep(self, experiment: str, *arguments: str) -> Running:
        """Start a sweep, named ``run``, from the controller's place in the network."""
        path = self.checkout.write("experiments/of-the-test.yml", experiment)
        with self.fleet.controller.entered():
            return self.checkout.start_sweep(path, "run", *arguments, inventory=LAB)

    def run(self, playbook: str, *arguments: str) -> Done:
        """Run a playbook to its end."""
        command = (".venv/bin/ansible-playbook", playbook, "-i", LAB, *arguments)
        with self.fleet.controller.entered():
            running = self.checkout.start(*command)
        return running.wait()

    def play(self, playbook: str, *arguments: str) -> Done:
        """Run a playbook to its end, which must be a good one."""
        return self.run(playbook, *arguments).succeeded()

    def changed(self, done: Done) -> dict[str, int]:
        """How many changes a playbook made on each host, by its recap."""
        found = re.findall(r"^(\S+) +: ok=\d+ +changed=(\d+)", done.output, flags=re.MULTILINE)
        return {name: int(count) for name, count in found if name != "localhost"}

    def everywhere(self, count: int) -> dict[str, int]:
        """`count` for each host, as `changed` says it."""
        return {host.name: count for host in self.hosts}


@contextmanager
def made(folder: Path) -> Iterator[Lab]:
    """Bring up a fleet, and make a checkout with its inventory."""
    copy = checkout(folder / "the user's checkout")
    with fleet(threads=1, netem_emulate=True) as up:
        copy.write(f"{LAB}/hosts.yml", up.inventory)
        copy.environment.update(up.environment)
        yield Lab(up, copy)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """A fleet of the test's own."""
    with made(tmp_path) as lab:
        yield lab


@dataclass(frozen=True)
class Swept:
    """A fleet after a sweep, in which the way to one host was lost for a while."""

    lab: Lab
    links_before: list[str]
    stages: dict[str, list[Task]]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swept]:
    with made(tmp_path_factory.mktemp("swept")) as lab:
        before = [host.link for host in lab.hosts]
        running = lab.start_sweep(SHORT)
        found = {
            host.name: until(partial(stages, host), f"a stage on {host.name}", DEADLINE_S)
            for host in lab.hosts
        }
        # A connection that is lost for a while costs nothing: the session runs on and is picked up.
        running.prints("session 1 of 2", DEADLINE_S)
        lab.hosts[1].kill_sshd()
        lab.hosts[1].start_sshd()
        running.wait(DEADLINE_S).succeeded()
        yield Swept(lab, before, found)


def stages(host: Host) -> list[Task]:
    """Stage processes of a host."""
    return [task for task in host.tasks if "-m paretopipe_worker stage " in task.command]


def reaches(near: Host, far: Host) -> bool:
    """Whether any of a few packets to a data port gets from one host to the other."""
    with ExitStack() as stack:
        sockets = []
        for host in (near, far):
            with host.network.entered():
                made = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
            made.bind((host.address, 0 if host is near else 29400))
            made.settimeout(1)
            sockets.append(made)
        for _ in range(5):
            sockets[0].sendto(b"?", (far.address, 29400))
        try:
            return sockets[1].recv(1) == b"?"
        except TimeoutError:
            return False


@pytest.mark.must_run
def test_a_sweep_over_ssh_as_a_user_with_sudo_leaves_nothing_to_provision(swept: Swept) -> None:
    lab = swept.lab
    for found in swept.stages.values():
        assert {task.user_id for task in found} == {USER_ID}
    results = lab.checkout.results("run")
    points = results.points
    assert len(points) == 6
    assert set(points["status"]) == {"ok"}
    assert set(points["output"]) == {"exact"}
    assert list(points["crossed"].notna()) == list(points["split"] != "@first")
    assert points["crossed"].dropna().all()
    goodput = points.groupby("link")["link_goodput_before_mbit"].min()
    assert 3 < goodput["rate20"] < 20.1 < 100 < goodput["none"]
    for host in lab.hosts:
        ends = results.ends(host.name)
        assert [(first.attempt, end.status) for first, end in ends if end] == [(1, "ok")] * 2
        # Neither the stages nor what runs by sudo leaves a file of root's in the user's folder.
        assert {path.lstat().st_uid for path in host.file(WORKER_HOME).rglob("*")} == {USER_ID}
    assert [host.link for host in lab.hosts] == swept.links_before
    assert [host.tasks for host in lab.hosts] == [[], []]
    assert lab.changed(lab.play("playbooks/provision.yml")) == lab.everywhere(0)


@pytest.mark.must_run
def test_ansible_goes_on_over_the_card_of_a_link_that_loses_all_and_restores_it(
    swept: Swept,
) -> None:
    lab, before = swept.lab, swept.links_before
    lab.checkout.write("shape.yml", SHAPE)
    for host in lab.hosts:
        host.file(f"{WORKER_HOME}/lease").touch()
        os.chown(host.file(f"{WORKER_HOME}/lease"), USER_ID, USER_ID)
    # Nothing reaches the data port any more, while Ansible goes through the same card.
    dead = ("-e", '{"shaped_condition": {"loss_percent": 100}}')
    if not probe_kernel()["netem"]:
        refused = lab.run("shape.yml", *dead, "-e", "netem_emulate=false")
        near = lab.hosts[0].name
        refused.refused(f"{near}: ", "sch_netem", os.uname().release, "linux-modules-extra")
        assert [host.link for host in lab.hosts] == before
    announced = lab.play("shape.yml", *dead, "--check", "--diff")
    assert "+shaped: dport 29400" in announced.output
    assert lab.changed(announced) == lab.everywhere(1)
    assert [host.link for host in lab.hosts] == before
    assert reaches(*lab.hosts)
    assert lab.changed(lab.play("shape.yml", *dead)) == lab.everywhere(1)
    assert not reaches(*lab.hosts)
    assert lab.changed(lab.play("shape.yml", *dead)) == lab.everywhere(0)

    assert lab.changed(lab.play("playbooks/restore.yml")) == lab.everywhere(1)
    assert [host.link for host in lab.hosts] == before
    assert [host.tasks for host in lab.hosts] == [[], []]
    assert reaches(*lab.hosts)


@pytest.mark.long
def test_a_host_that_is_down_is_named_and_nothing_is_started(lab: Lab) -> None:
    near, far = lab.hosts
    far.kill_sshd()
    running = lab.start_sweep(SHORT)
    running.wait(DEADLINE_S).refused(f"fatal: [{far.name}]: UNREACHABLE!", far.address)
    assert not lab.checkout.results("run").raw()
    assert [near.tasks, far.tasks] == [[], []]


@pytest.mark.long
def test_a_host_that_drops_out_costs_its_session_and_clears_itself(lab: Lab) -> None:
    near, far = lab.hosts
    before = near.link, far.link
    running = lab.start_sweep(SLOW_FIRST, "-e", '{"lease_s": 8}')
    running.prints("split 1 of 3", DEADLINE_S)
    assert stages(far)
    assert far.link != before[1]

    far.kill_sshd()
    controller = lab.checkout.root / "results/run/records/controller"
    until(lambda: not far.tasks and far.link == before[1], f"nothing left on {far.name}")
    failure = until(lambda: [*controller.glob("*.jsonl")], "a record of the failure")
    far.start_sshd()

    running.wait(DEADLINE_S).refused("1 of 2 sessions failed", f"{far.name}: ")
    [end] = [record for record in read_records(failure[0]) if isinstance(record, End)]
    assert far.name in str(end.reason)
    status = lab.checkout.results("run").points.set_index(["link", "split"])["status"]
    assert set(status["none"]) == {"ok"}
    assert status["slow"]["@first"] == "ok"
    assert status["slow"]["@last"] == "failed"
    assert (near.link, far.link) == before
    assert [near.tasks, far.tasks] == [[], []]

"""The local lab by itself: real namespaces, who may have it, and that nothing is left of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from paretopipe_worker.host.daemons import Process, read_json
from tests.helpers.labs import SMALLEST, nothing_left, throwaway
from tests.helpers.sweeps import ROOT
from tests.helpers.waiting import until

LAB = ROOT / "roles/local_lab/files/lab.py"
HOSTS = {"left": "10.9.0.1", "right": "10.9.0.2"}
UNPRIVILEGED = ("unshare", "--user", "--map-user=61234", "--map-group=61234", "--")
"""Runs a command as a user without any privilege, who still may read this machine's Python."""

ASK = """\
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10) as connection:
    print(connection.makefile().readline(), end="")
"""
ANSWER = """\
import socket, sys
listener = socket.create_server((sys.argv[1], 0))
print(listener.getsockname()[1], flush=True)
connection, peer = listener.accept()
connection.sendall(f"{peer[0]}\\n".encode())
"""
STAY = "import signal; print('here', flush=True); signal.pause()"


def reason_without(*prefix: str) -> str:
    """Why a lab cannot be had by a command run with `prefix`, by trial; empty where it can."""
    trial = ("unshare", "--user", "--map-root-user", "--net", "--mount", "true")
    command = [*prefix, *(trial if prefix or os.geteuid() != 0 else trial[:1] + trial[3:])]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError as error:
        return str(error)
    return "" if done.returncode == 0 else f"{' '.join(command)}: {done.stderr.strip()}"


needs_namespaces = pytest.mark.skipif(bool(reason_without()), reason=reason_without())
needs_user_namespaces = pytest.mark.skipif(
    bool(reason_without(*UNPRIVILEGED)), reason=reason_without(*UNPRIVILEGED)
)

pytestmark = pytest.mark.slow


@dataclass
class Lab:
    """A lab of two hosts in a folder, for an owner that is a process of this test."""

    folder: Path
    prefix: tuple[str, ...] = ()
    owner: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.owner = subprocess.Popen(["sleep", "infinity"])

    def call(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run one command of lab.py."""
        words = [*self.prefix, sys.executable, str(LAB), command, f"--dir={self.folder}"]
        return subprocess.run(
            [*words, *arguments],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=60,
        )

    def up(self, owner: int | None = None) -> subprocess.CompletedProcess[str]:
        """Bring it up."""
        hosts = [f"--host={host}={address}" for host, address in HOSTS.items()]
        return self.call("up", f"--owner={owner or self.owner.pid}", *hosts)

    def down(self) -> dict[str, object]:
        """Take it down."""
        found: dict[str, object] = json.loads(self.call("down").stdout)
        return found

    def python(self, host: str, program: str, *arguments: str) -> subprocess.Popen[str]:
        """Start a Python program on a host."""
        words = [*self.prefix, str(self.folder / host / "python"), "-c", program, *arguments]
        return subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    @property
    def holder(self) -> Process:
        """The process that holds the namespaces."""
        state = read_json(self.folder / "state.json")
        assert state is not None
        return Process(**state["holder"])


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path / "lab")
    yield made
    made.down()
    made.owner.kill()
    made.owner.wait()


@pytest.fixture
def unprivileged_lab(tmp_path: Path) -> Iterator[Lab]:
    # All commands of one user share a user namespace, as those of a real user do.
    command = [*UNPRIVILEGED, "sh", "-c", "echo made && exec sleep infinity"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as user:
        assert user.stdout is not None
        assert user.stdout.readline() == b"made\n"
        enter = ("nsenter", f"--target={user.pid}", "--user", "--preserve-credentials", "--")
        made = Lab(tmp_path / "lab", enter)
        yield made
        made.down()
        made.owner.kill()
        made.owner.wait()
        user.kill()


def changed(done: subprocess.CompletedProcess[str]) -> bool:
    """Whether a command that went well changed anything."""
    assert done.returncode == 0, done.stderr
    return bool(json.loads(done.stdout)["changed"])


@pytest.mark.must_run
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("lab", marks=needs_namespaces),
        pytest.param("unprivileged_lab", marks=needs_user_namespaces),
    ],
)
def test_hosts_of_a_lab_reach_each_other_at_their_data_addresses(
    kind: str, request: pytest.FixtureRequest
) -> None:
    lab: Lab = request.getfixturevalue(kind)
    assert changed(lab.up())
    assert not changed(lab.up())
    server = lab.python("right", ANSWER, HOSTS["right"])
    assert server.stdout is not None
    asked = lab.python("left", ASK, HOSTS["right"], server.stdout.readline().strip())
    output, errors = asked.communicate(timeout=20)
    assert output.strip() == HOSTS["left"], errors
    server.communicate(timeout=20)
    seen = lab.python("left", "import os; print(*sorted(os.listdir('/sys/class/net')))")
    assert seen.communicate(timeout=20)[0].split() == ["eth0", "lo"]
    holder = lab.holder
    assert lab.down() == {"changed": True, "ended": []}
    assert not holder.alive
    assert lab.down() == {"changed": False, "ended": []}


@pytest.mark.must_run
@needs_namespaces
def test_a_lab_belongs_to_one_sweep_at_a_time(lab: Lab) -> None:
    assert changed(lab.up())
    refused = lab.up(owner=os.getpid())
    assert refused.returncode == 1
    said = f"belongs to another run of Ansible (pid {lab.owner.pid}, there since 20"
    assert said in refused.stderr
    assert lab.holder.alive
    lab.owner.kill()
    lab.owner.wait()
    assert changed(lab.up(owner=os.getpid()))


@pytest.mark.must_run
@needs_namespaces
def test_a_lab_ends_with_its_sweep_once_nothing_runs_on_its_hosts(lab: Lab) -> None:
    lab.up()
    program = lab.python("left", STAY)
    assert program.stdout is not None
    assert program.stdout.readline() == "here\n"
    holder = lab.holder
    lab.owner.kill()
    lab.owner.wait()
    # The stages' own lease is what ends them: the lab lets them.
    assert program.poll() is None
    assert holder.alive
    program.terminate()
    program.communicate()
    until(lambda: not holder.alive, "a holder that has ended", 20)


@pytest.mark.must_run
@needs_namespaces
def test_down_ends_what_runs_on_the_hosts_and_says_what_it_was(lab: Lab) -> None:
    lab.up()
    program = lab.python("right", STAY)
    assert program.stdout is not None
    program.stdout.readline()
    ended = lab.down()["ended"]
    assert isinstance(ended, list)
    assert [line for line in ended if line.startswith(f"{program.pid} ")]
    assert program.wait(10) == -signal.SIGTERM


@pytest.mark.must_run
@needs_namespaces
def test_what_a_killed_lab_left_is_cleared_by_the_next(lab: Lab) -> None:
    lab.up()
    program = lab.python("right", STAY)
    assert program.stdout is not None
    program.stdout.readline()
    os.kill(lab.holder.pid, signal.SIGKILL)
    until(lambda: not lab.holder.alive, "a holder that is gone", 10)
    assert changed(lab.up())
    assert program.wait(10) == -signal.SIGTERM
    fresh = lab.python("right", STAY)
    assert fresh.stdout is not None
    assert fresh.stdout.readline() == "here\n"


@pytest.mark.must_run
@needs_namespaces
def test_a_hosts_python_refuses_to_run_elsewhere_when_the_lab_is_down(lab: Lab) -> None:
    lab.up()
    text = (lab.folder / "left/python").read_text()
    holder = lab.holder
    lab.owner.kill()
    lab.owner.wait()
    until(lambda: not holder.alive, "a holder that has ended", 20)
    assert (lab.folder / "left/python").read_text() == text
    refused = lab.python("left", "print('ran')")
    output, errors = refused.communicate(timeout=20)
    assert (refused.returncode, output) == (1, "")
    assert errors == "left: the local lab is down\n"


@pytest.mark.must_run
@needs_user_namespaces
def test_the_setting_that_forbids_namespaces_is_named(lab: Lab) -> None:
    # In a user namespace of its own the limit can be set without touching this machine's.
    limit = "echo 0 >/proc/sys/user/max_net_namespaces"
    nested = ("unshare", "--user", "--map-root-user", "--")
    lab.prefix = (*nested, "sh", "-c", f'{limit} && exec "$@"', "sh")
    refused = lab.up()
    assert refused.returncode == 1
    assert "user.max_net_namespaces is 0 and must be some" in refused.stderr
    assert "could not be made without root" in refused.stderr
    assert "Traceback" not in refused.stderr


@needs_user_namespaces
@pytest.mark.long
def test_a_sweep_without_privilege(tmp_path: Path) -> None:
    with throwaway(tmp_path / "checkout") as copy:
        experiment = copy.write("experiments/smallest.yml", SMALLEST)
        command = (".venv/bin/ansible-playbook", "sweep.yml", "-i", "inventory/local")
        done = copy.run(*UNPRIVILEGED, *command, "-e", f"experiment={experiment}", "-e", "run=user")
        assert "3 of 3 points measured" in done.succeeded().output
        points = copy.results("user").points
        assert set(points["status"]) == {"ok"}
        assert points["link_goodput_before_mbit"].between(10, 20).all()
        nothing_left(copy)

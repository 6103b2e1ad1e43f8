"""Supervision: a detached process ends with its lease, its deadline or its supervisor."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from paretopipe_worker.host.supervise import STAGE_ENVIRONMENT, stop
from tests.helpers.supervised import WAIT, alive
from tests.helpers.supervised import SupervisedHost as Host
from tests.helpers.waiting import until

pytestmark = pytest.mark.slow

DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True)"


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """A run's folder with a fresh lease; nothing launched there is left afterwards."""
    made = Host(tmp_path)
    made.lease.touch()
    yield made
    stop(tmp_path)


def test_a_launched_process_runs_detached_and_its_end_is_recorded(host: Host) -> None:
    launched = host.launch("import sys; print('hello'); sys.exit(3)")
    assert launched["changed"]
    status = host.ended()
    assert (status["exit_code"], status["signal"], status["reason"]) == (3, None, "exited with 3")
    assert host.log() == "hello\n"
    until(lambda: not alive(launched["pid"]), "the supervisor's end")


def test_a_process_that_is_killed_is_recorded_with_the_signal(host: Host) -> None:
    os.kill(host.launch(WAIT)["child_pid"], signal.SIGKILL)
    status = host.ended()
    assert (status["exit_code"], status["signal"]) == (None, "SIGKILL")
    assert status["reason"] == "killed by SIGKILL"


def test_a_process_ends_when_its_lease_is_no_longer_renewed(host: Host) -> None:
    launched = host.launch(WAIT, lease_s=3)
    renewed_until = time.monotonic() + 4.0
    while time.monotonic() < renewed_until:
        host.lease.touch()
        assert alive(launched["child_pid"])
    status = host.ended()
    assert "was last renewed" in status["reason"]
    assert not alive(launched["child_pid"])


def test_a_process_ends_when_its_lease_is_taken_away(host: Host) -> None:
    launched = host.launch(WAIT)
    host.lease.unlink()
    assert host.ended()["reason"] == f"lease {host.lease} is gone"
    assert not alive(launched["child_pid"])


def test_a_process_ends_at_its_deadline(host: Host) -> None:
    launched = host.launch(WAIT, deadline_s=0.3)
    assert host.ended()["reason"] == "deadline of 0.3 s passed"
    assert not alive(launched["child_pid"])


def test_a_process_that_ignores_the_request_to_end_is_killed(host: Host) -> None:
    host.launch(f"{DEAF}\nwhile True: signal.pause()", deadline_s=1)
    until(lambda: "deaf" in host.log(), "a process that ignores signals")
    assert host.ended()["signal"] == "SIGKILL"


def test_a_process_does_not_outlive_a_killed_supervisor(host: Host) -> None:
    launched = host.launch(WAIT)
    os.kill(launched["pid"], signal.SIGKILL)
    until(lambda: not alive(launched["child_pid"]), "the process's end")
    assert host.launch(WAIT)["changed"]


def test_a_process_whose_supervisor_is_gone_before_it_starts_never_starts(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    script = (
        "import sys; from pathlib import Path; from paretopipe_worker.host import supervise as s\n"
        "job = s.Job('x', ('touch', sys.argv[1]), *[Path('/tmp')] * 2, 1, 1)\n"
        "sys.exit(s._start(job.command, job.environment, 0).wait())"
    )
    words = [sys.executable, "-c", script, str(ran)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stderr) == (1, "")
    assert not ran.exists()


def test_a_second_launch_of_a_name_that_runs_starts_nothing(host: Host) -> None:
    first = host.launch(WAIT)
    second = host.launch(WAIT)
    assert not second["changed"]
    assert (second["pid"], second["child_pid"]) == (first["pid"], first["child_pid"])
    other = host.launch(WAIT, name="s1.2")
    assert other["changed"]


def test_stop_ends_every_process_and_its_descendants(host: Host) -> None:
    spawn = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', sys.argv[1]])"
    child = f"{DEAF}\nimport os\nprint('pid', os.getpid(), flush=True)\nsignal.pause()"
    command = (sys.executable, "-c", f"{spawn}\n{WAIT}", child)
    launched = [host.launch("", name=name, command=command) for name in ("a.1", "b.1")]
    until(lambda: all("pid" in host.log(name) for name in ("a.1", "b.1")), "both grandchildren")
    grandchildren = [int(host.log(name).split()[-1]) for name in ("a.1", "b.1")]
    assert all(alive(pid) for pid in grandchildren)
    assert host.stop() == {"changed": True, "ended": ["a.1", "b.1"]}
    pids = [status[key] for status in launched for key in ("pid", "child_pid")]
    assert not any(alive(pid) for pid in pids + grandchildren)
    assert host.status("a.1")["reason"] == "stopped by SIGTERM"
    assert host.stop() == {"changed": False, "ended": []}


def test_stop_ends_what_a_killed_supervisor_left(host: Host) -> None:
    spawn = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', sys.argv[1]])"
    child = "import os, signal\nprint('pid', os.getpid(), flush=True)\nsignal.pause()"
    launched = host.launch("", command=(sys.executable, "-c", f"{spawn}\n{WAIT}", child))
    until(lambda: "pid" in host.log(), "the grandchild")
    grandchild = int(host.log().split()[-1])
    os.kill(launched["pid"], signal.SIGKILL)
    until(lambda: not alive(launched["child_pid"]), "the process's end")
    assert alive(grandchild)
    assert host.stop()["ended"] == ["s1.1"]
    assert not alive(grandchild)
    assert host.status()["reason"] == "stopped; its supervisor had been killed"


def test_a_process_gets_the_allocator_settings_and_its_threads(host: Host) -> None:
    host.launch("import json, os; print(json.dumps(dict(os.environ)))", threads=2)
    host.ended()
    environment = json.loads(host.log())
    assert environment["OMP_NUM_THREADS"] == "2"
    assert STAGE_ENVIRONMENT.items() <= environment.items()


def test_the_allocator_takes_large_blocks_from_the_heap_and_keeps_them(host: Host) -> None:
    program = (
        "import ctypes\n"
        "libc = ctypes.CDLL(None)\n"
        "names = 'arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost'\n"
        "class Info(ctypes.Structure):\n"
        "    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]\n"
        "libc.mallinfo2.restype, libc.malloc.restype = Info, ctypes.c_void_p\n"
        "libc.malloc.argtypes, libc.free.argtypes = [ctypes.c_size_t], [ctypes.c_void_p]\n"
        "mapped = libc.mallinfo2().hblkhd\n"
        "block = libc.malloc(200 << 20)\n"
        "mapped = libc.mallinfo2().hblkhd - mapped\n"
        "libc.free(block)\n"
        "print(mapped >> 20, libc.mallinfo2().arena >> 20 >= 200)"
    )
    host.launch(program)
    host.ended()
    assert host.log().split() == ["0", "True"]
    plain = {key: value for key, value in os.environ.items() if key not in STAGE_ENVIRONMENT}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=plain, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["200", "False"]


def test_a_program_that_is_not_there_is_recorded_as_ended(host: Host) -> None:
    launched = host.launch("", command=("/nowhere/python",))
    assert launched["state"] == "ended"
    assert launched["reason"] == "/nowhere/python: No such file or directory"


def test_the_command_line_launches_a_worker_command(host: Host) -> None:
    words = ["--run-dir", str(host.folder), "--lease", str(host.lease), "--lease-s", "30"]
    limits = ["--deadline-s", "30", "--name", "probe.1", "--threads", "1"]
    done = host.cli("launch", *words, *limits, "--", "link", "probe-kernel")
    assert json.loads(done.stdout)["changed"]
    assert host.ended("probe.1")["exit_code"] == 0
    assert "kernel" in json.loads(host.log("probe.1"))


@pytest.mark.parametrize(
    ("name", "lease", "said"),
    [
        ("../x", "lease", "--name '../x': allowed are letters, digits"),
        ("x.1", "absent", "absent is gone: touch it before launching"),
    ],
)
def test_a_launch_that_cannot_be_is_refused(host: Host, name: str, lease: str, said: str) -> None:
    words = ["--run-dir", str(host.folder), "--lease", str(host.folder / lease)]
    limits = ["--lease-s", "30", "--deadline-s", "30", "--name", name]
    done = host.cli("launch", *words, *limits, "--", "stop")
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr

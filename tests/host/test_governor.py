"""The frequency governor is set for a sweep, and afterwards each policy's own is restored."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from paretopipe_worker.host.governor import GovernorError, choose, restore
from tests import ROOT
from tests.helpers.fake_host import FakeHost

pytestmark = pytest.mark.slow

POLICIES = "sys/devices/system/cpu/cpufreq"
HAD = {"policy0": "ondemand", "policy4": "schedutil"}
FAST = dict.fromkeys(HAD, "performance")


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    """A host with two clusters of cores."""
    made = FakeHost(tmp_path / "host")
    for policy, governor in HAD.items():
        made.file(f"{POLICIES}/{policy}/scaling_governor", f"{governor}\n")
        made.file(f"{POLICIES}/{policy}/scaling_available_governors", f"{governor} performance\n")
    return made


def governors(host: FakeHost) -> dict[str, str]:
    """What the policies have now."""
    files = (host.root / POLICIES).glob("policy*/scaling_governor")
    return {file.parent.name: file.read_text().strip() for file in sorted(files)}


def test_every_policy_gets_its_own_governor_back(host: FakeHost, tmp_path: Path) -> None:
    change = choose("performance", tmp_path, host.root, check=False)
    assert (change.changed, change.before, change.after) == (True, HAD, FAST)
    assert governors(host) == FAST
    change = restore(tmp_path, host.root, check=False)
    assert (change.changed, change.before, change.after) == (True, FAST, HAD)
    assert governors(host) == HAD


def test_what_is_done_twice_changes_nothing_and_forgets_nothing(
    host: FakeHost, tmp_path: Path
) -> None:
    assert choose("performance", tmp_path, host.root, check=False).changed
    assert not choose("performance", tmp_path, host.root, check=False).changed
    assert restore(tmp_path, host.root, check=False).changed
    assert governors(host) == HAD
    assert not restore(tmp_path, host.root, check=False).changed
    assert governors(host) == HAD


def test_what_was_there_first_is_put_back_after_another_choice(
    host: FakeHost, tmp_path: Path
) -> None:
    for policy in HAD:
        host.file(f"{POLICIES}/{policy}/scaling_available_governors", "powersave performance")
    choose("powersave", tmp_path, host.root, check=False)
    choose("performance", tmp_path, host.root, check=False)
    restore(tmp_path, host.root, check=False)
    assert governors(host) == HAD


def test_a_governor_that_somebody_else_set_meanwhile_stays(host: FakeHost, tmp_path: Path) -> None:
    choose("performance", tmp_path, host.root, check=False)
    host.file(f"{POLICIES}/policy4/scaling_governor", "userspace\n")
    restore(tmp_path, host.root, check=False)
    assert governors(host) == {"policy0": "ondemand", "policy4": "userspace"}


def test_after_a_reboot_what_the_kernel_chose_anew_is_what_is_put_back(
    host: FakeHost, tmp_path: Path
) -> None:
    choose("performance", tmp_path, host.root, check=False)
    host.file(f"{POLICIES}/policy0/scaling_governor", "conservative\n")
    choose("performance", tmp_path, host.root, check=False)
    restore(tmp_path, host.root, check=False)
    assert governors(host) == HAD | {"policy0": "conservative"}


def test_check_mode_says_what_would_change_and_changes_nothing(
    host: FakeHost, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    change = choose("performance", state, host.root, check=True)
    assert change.changed and change.after == FAST
    assert governors(host) == HAD and not state.exists()
    choose("performance", state, host.root, check=False)
    change = restore(state, host.root, check=True)
    assert change.changed and change.after == HAD
    assert governors(host) == FAST
    assert restore(state, host.root, check=False).changed


def test_a_host_without_cpufreq_is_left_alone(tmp_path: Path) -> None:
    state = tmp_path / "state"
    assert not choose("performance", state, tmp_path, check=False).changed
    assert not restore(state, tmp_path, check=False).changed
    assert not state.exists()


def test_a_governor_that_is_not_there_is_refused_before_anything_is_changed(
    host: FakeHost, tmp_path: Path
) -> None:
    host.file(f"{POLICIES}/policy4/scaling_available_governors", "schedutil powersave\n")
    with pytest.raises(GovernorError, match="policy4 has no 'performance'; it has schedutil"):
        choose("performance", tmp_path, host.root, check=False)
    assert governors(host) == HAD


def test_a_governor_that_the_kernel_refuses_is_an_error_that_restore_undoes(
    host: FakeHost, tmp_path: Path
) -> None:
    stubborn = host.root / POLICIES / "policy4/scaling_governor"
    stubborn.unlink()
    stubborn.symlink_to("/proc/self/stat")  # read by anyone, written by nobody
    with pytest.raises(GovernorError, match="policy4/scaling_governor"):
        choose("performance", tmp_path, host.root, check=False)
    first = host.root / POLICIES / "policy0/scaling_governor"
    assert first.read_text() == "performance\n"
    restore(tmp_path, host.root, check=False)
    assert first.read_text() == "ondemand\n"


def test_the_command_line_starts_without_what_only_stages_need(
    host: FakeHost, tmp_path: Path
) -> None:
    heavy = "for name in ('torch', 'pydantic', 'numpy'): sys.modules[name] = None\n"
    code = f"import sys\n{heavy}from paretopipe_worker.__main__ import main\nsys.exit(main())"
    words = ("--state-dir", tmp_path / "state", "--root", host.root)
    for verb, after in (("set", FAST), ("restore", HAD)):
        done = subprocess.run(
            [sys.executable, "-c", code, "governor", verb, *words],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        said = json.loads(done.stdout)
        assert said["changed"] and said["after"] == after
    done = subprocess.run(
        [sys.executable, "-c", code, "governor", "set", *words, "--governor", "warp"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "policy0 has no 'warp'; it has ondemand, performance" in done.stderr
    assert "Traceback" not in done.stderr


@cache
def reason_without_mounts() -> str:
    """Why nothing can be mounted here in a namespace of its own; empty where it can."""
    done = subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/sys/devices/system/cpu"],
        capture_output=True,
        text=True,
    )
    return done.stderr.strip()


@pytest.mark.skipif(bool(reason_without_mounts()), reason=reason_without_mounts())
def test_the_worker_role_sets_the_governor_and_puts_it_back(host: FakeHost, tmp_path: Path) -> None:
    def role(entry: str, **values: Any) -> dict[str, Any]:
        what = {"name": "worker", "tasks_from": entry}
        return {"name": entry, "ansible.builtin.include_role": what, "vars": values}

    def shown(number: int) -> dict[str, Any]:
        into = f"cat /sys/devices/system/cpu/cpufreq/*/scaling_governor >{tmp_path}/{number}"
        return {"name": "Look", "ansible.builtin.shell": into, "check_mode": False}

    runtime = {
        "root": ["env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "paretopipe_worker.root"]
    }
    tasks = [
        role("governor", worker_governor=""),
        shown(1),
        role("governor"),
        shown(2),
        role("restore"),
        shown(3),
    ]
    play = {
        "name": "Govern",
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "vars": {
            "worker_runtime": runtime,
            "worker_state_dir": str(tmp_path / "state"),
            "ansible_become": False,
            "ansible_python_interpreter": sys.executable,
        },
        "tasks": tasks,
    }
    playbook = tmp_path / "govern.yml"
    playbook.write_text(yaml.safe_dump([play]), encoding="utf-8")
    script = (
        'mount -t tmpfs none /sys/devices/system/cpu && cp -r "$1/." /sys/devices/system/cpu/ && '
        'shift && exec "$@"'
    )
    ansible = Path(sys.executable).with_name("ansible-playbook")
    inside = ("unshare", "--mount", "sh", "-c", script, "sh", host.root / "sys/devices/system/cpu")
    for mode, seen in (([], FAST), (["--check"], HAD)):
        done = subprocess.run(
            [*inside, ansible, playbook, *mode],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        looks = [(tmp_path / f"{number}").read_text().split() for number in (1, 2, 3)]
        assert looks == [list(found.values()) for found in (HAD, seen, HAD)], done.stdout
        assert f"changed={5 if seen is FAST else 4} " in done.stdout

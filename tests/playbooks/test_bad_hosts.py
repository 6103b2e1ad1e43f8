"""What is wrong with hosts, each in another way, is named in one table and changed on none."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import pytest

from tests.helpers.machines import HOME, Kind
from tests.helpers.real_labs import made
from tests.helpers.sshd import reason_without_sshd
from tests.helpers.sweeps import Done

FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
"""What makes the clock of a host wrong."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.must_run,
    pytest.mark.skipif(bool(reason_without_sshd()), reason=reason_without_sshd()),
    pytest.mark.skipif(not FAKETIME, reason="libfaketime (package faketime) is not installed"),
]

FULL = """\
mount -t tmpfs -o size=256k tmpfs ".$HOME"
chown $USER_ID ".$HOME"
dd if=/dev/zero of=".$HOME/photos" bs=4k || :
"""
# Debian's Python reads this file whenever it starts.
OLD = """\
cat >"$(echo etc/python3.*/sitecustomize.py)" <<END
import collections, sys
names = "major minor micro releaselevel serial"
sys.version_info = collections.namedtuple("version_info", names)(3, 9, 2, "final", 0)
sys.version = "3.9.2" + sys.version[sys.version.index(" "):]
END
"""
ILLEGAL = """\
mkdir -p ".$HOME/fake/torch"
echo "import os, signal; os.kill(os.getpid(), signal.SIGILL)" >".$HOME/fake/torch/__init__.py"
cat >".$HOME/python" <<END
#!/bin/sh
PYTHONPATH="$HOME/fake:\\$PYTHONPATH" exec "$PYTHON_PREFIX/bin/python" "\\$@"
END
chmod a+x ".$HOME/python"
"""
OWN = """\
mkdir srv/own
chown $USER_ID srv/own
cat >srv/own/python3 <<END
#!/bin/sh
[ "\\$(id -u)" != 0 ] || touch /srv/run-by-root
exec /usr/bin/python3 "\\$@"
END
chmod a+x srv/own/python3
"""
FLEET = {
    "good": Kind(),
    "off": Kind(),
    "full": Kind(FULL),
    "sudoless": Kind("rm etc/sudoers.d/$USER"),
    "old": Kind(OLD),
    "illegal": Kind(ILLEGAL, {"worker_python": f"{HOME}/python"}),
    "late": Kind(f"echo SetEnv LD_PRELOAD={FAKETIME} FAKETIME=+3600 >>etc/ssh/the_config"),
    "taken": Kind(),
    "own": Kind(OWN, {"ansible_python_interpreter": "/srv/own/python3"}),
}
PROBLEMS = {
    ("off", "reachable"): "10.78.0.2",
    ("full", "disk"): "",
    ("sudoless", "sudo"): "password",
    ("old", "python"): "3.9",
    ("illegal", "torch"): "SIGILL",
    ("late", "clock"): "",
    ("taken", "ports"): "29400",
    ("own", "sudo"): "/srv/own/python3: its part own belongs to user ada",
}
"""What the line of each host and check must say."""


@dataclass(frozen=True)
class Checked:
    """What `check.yml` printed, and what it changed, if anything, on the hosts that were on."""

    done: Done
    changes: dict[str, dict[str, str]]

    @property
    def table(self) -> dict[tuple[str, str], str]:
        """The table: the text of each host and check."""
        lines = self.done.output.splitlines()
        [heading] = [n for n, line in enumerate(lines) if re.fullmatch(r"host +check +.*", line)]
        rows = takewhile(bool, lines[heading + 1 :])
        cells = [re.split(" {2,}", row, maxsplit=2) for row in rows]
        return {(host, check): text for host, check, text in cells}


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checked]:
    with made(tmp_path_factory.mktemp("bad"), FLEET) as lab:
        hosts = {host.name: host for host in lab.hosts}
        hosts.pop("off").stop()
        before = {name: host.files() for name, host in hosts.items()}
        taken = hosts["taken"]
        with taken.network.entered():
            listener = socket.create_server((taken.address, 29400))
        with closing(listener):
            done = lab.run("playbooks/check.yml")
        changes = {
            name: {
                path: told for path, told in host.files().items() if before[name].get(path) != told
            }
            for name, host in hosts.items()
        }
        yield Checked(done, changes)


def test_each_host_is_named_with_what_is_wrong_with_it(checked: Checked) -> None:
    checked.done.refused()
    problems = {key: text for key, text in checked.table.items() if not text.startswith("note: ")}
    wrong = {key for key, said in PROBLEMS.items() if said not in problems.get(key, "\n")}
    assert not wrong, f"{wrong} are not named, or not so:\n{checked.done.output}"
    assert not [key for key in problems if key[0] == "good"], checked.done.output


def test_only_hosts_with_problems_are_told_to_have_failed(checked: Checked) -> None:
    output = checked.done.output
    for line in (r"^fatal: \[(\w+)\]", r"^(\w+) +: .* failed=[1-9]"):
        assert set(re.findall(line, output, re.MULTILINE)) == set(FLEET) - {"good"}, output


def test_nothing_is_changed_on_any_host(checked: Checked) -> None:
    # The library that makes a clock wrong keeps files in memory.
    changes = {
        name: {path: told for path, told in changed.items() if "faketime" not in path}
        for name, changed in checked.changes.items()
    }
    assert not any(changes.values()), changes

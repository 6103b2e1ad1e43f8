"""What a host writes when its disk is full: how a stage ended, and that this is why."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from paretopipe_worker.host.daemons import read_json, write_json
from paretopipe_worker.link.conditions import Condition
from tests.helpers.disks import NEEDS_ROOT, full, small_disk
from tests.helpers.namespaces import reason_without_namespaces
from tests.helpers.shaped_link import shaped_link
from tests.helpers.supervised import SupervisedHost

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason=NEEDS_ROOT)

FILL = """\
import sys
with open(sys.argv[1], "wb", buffering=0) as file:
    try:
        while file.write(bytes(4096)):
            pass
    except OSError:
        sys.exit(1)
"""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MiB."""
    with small_disk(tmp_path / "disk", 4 << 10) as made:
        yield made


def test_a_stage_that_fails_on_a_full_disk_is_told_to_have_done_so(disk: Path) -> None:
    host = SupervisedHost(disk)
    host.lease.touch()
    (disk / "fill.py").write_text(FILL)
    words = (os.path.realpath("/proc/self/exe"), str(disk / "fill.py"), str(disk / "ballast"))
    host.launch("", command=words)
    status = host.ended()
    said = rf"exited with 1; No space left on device: \d+ bytes at {disk}"
    assert re.fullmatch(said, status["reason"]), status
    assert not list(disk.glob(".*")), "no half file is left"


def test_a_file_is_replaced_on_a_full_disk_and_none_is_made(disk: Path) -> None:
    write_json(disk / "status.json", {"state": "running", "more": "x" * 500})
    with full(disk):
        write_json(disk / "status.json", {"state": "ended"})
        with pytest.raises(OSError, match="No space left on device"):
            write_json(disk / "other.json", {"state": "ended", "more": "x" * 5000})
    assert read_json(disk / "status.json") == {"state": "ended"}
    assert [path.name for path in disk.iterdir()] == ["status.json"]


def test_a_launch_on_a_full_disk_says_why_it_is_refused(disk: Path) -> None:
    host = SupervisedHost(disk)
    host.lease.touch()
    secret = host.entrusted()
    where = (f"--run-dir={disk}", f"--lease={host.lease}", "--lease-s=60", "--deadline-s=60")
    with full(disk):
        done = host.cli("launch", *where, "--name=s1.1", "--", "links")
    assert done.returncode == 2 and "No space left on device" in done.stderr, done
    assert "Traceback" not in done.stderr and not secret.exists()
    assert not list(disk.glob(".*")), "no half file is left"


@pytest.mark.skipif(bool(reason_without_namespaces()), reason=reason_without_namespaces())
def test_a_link_whose_state_cannot_be_kept_is_not_shaped(disk: Path, tmp_path: Path) -> None:
    with shaped_link(tmp_path) as link:
        before = link.show()
        with full(disk):
            refused = link.apply(Condition(rate_mbit=20), "--state-dir", str(disk))
        assert "No space left on device" in refused
        assert (link.show(), link.keepers()) == (before, [])

"""What a host writes when its disk is full: how a stage ended, and that this is why."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from paretopipe_worker.host.daemons import read_json, write_json
from tests.helpers.disks import NEEDS_ROOT, full, small_disk
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

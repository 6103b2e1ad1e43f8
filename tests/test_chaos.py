"""A short run of chaos; ``python -m tests.chaos`` is the long one."""

from __future__ import annotations

import json
import subprocess
import sys
from random import Random

import pytest

from tests.chaos.frames import checksum, flipped, forged, payload_of
from tests.helpers.sshd import reason_without_sshd

ONLY = ("kill-stage", "kill-supervisor", "fill-host", "interrupt-controller")

FRAME = bytes.fromhex(
    "02000000000102000000000208004500002d00004000400600000a0000010a000002"
    "72d89c4000000001000000025018ffff0000000068656c6c6f"
)
"""An Ethernet frame whose TCP carries `hello`; neither of its checksums is there yet."""


@pytest.mark.slow(minutes=1.5)
@pytest.mark.timeout(900)  # two sweeps, and what may follow where something does not hold
@pytest.mark.must_run
@pytest.mark.skipif(bool(reason_without_sshd()), reason=reason_without_sshd())
def test_a_sweep_outlives_faults_and_is_resumed() -> None:
    # With this seed each comes once, and last the one that ends the sweep.
    asked = ("--seed", "155", "--faults", "4", "--json", "--only", *ONLY)
    command = (sys.executable, "-m", "tests.chaos", *asked)
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert (told["faults"], told["breaches"]) == (4, [])
    rows = {row["kind"]: row for row in told["rows"]}
    for kind in ONLY:
        row = rows[kind]
        assert (row["injected"], row["lost"], row["leftovers"], row["others"]) == (1, 0, 0, 0), row


def test_a_frame_is_damaged_so_that_tcp_notices_or_does_not() -> None:
    assert FRAME[payload_of(FRAME).start : payload_of(FRAME).stop] == b"hello"
    assert payload_of(FRAME[:30]) == range(0)
    whole = summed(forged(bytearray(FRAME), Random(1)))
    for seed in range(20):
        good = forged(bytearray(FRAME), Random(seed))
        assert good[-5:] != b"hello" and summed(good) == whole == 0
        assert summed(flipped(bytearray(good), Random(seed))) != 0


def summed(frame: bytes) -> int:
    """What is left of a segment's checksum when all of it, addresses included, is summed."""
    segment = frame[34:]
    return checksum(frame[26:34] + bytes([0, 6]) + len(segment).to_bytes(2, "big") + segment)

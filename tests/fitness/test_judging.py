"""What is found of hosts by their answers: a table of facts, without hosts."""

from __future__ import annotations

import re
from typing import Any

import pytest

from paretopipe_worker.fitness.answers import parse
from paretopipe_worker.fitness.findings import CHECKS, AllowError, Finding, allowed, table
from tests.helpers.answers import NOON_NS, answer, judged, raw

TRIED = {"processor": "p", "python": "/p", "build": "b", "torch": "2.5.0"}
PYTHON = {"name": "worker_python /opt/python", "python": [3, 11, 2], "missing": [], "torch": TRIED}
SWEPT = {
    **{"run": "other", "user": "bob", "started_unix_s": 1.7e9, "lease_s": 30.0},
    **{"renewing": True, "renewed_s": 1.0},
}
GONE = {"renewing": False, "renewed_s": 12.0}

PROBLEMS: dict[str, tuple[str, dict[str, Any], str]] = {
    "off": ("reachable", {"unreachable": "no route"}, "^no route$"),
    "sudo": ("sudo", {"sudo_problem": "Missing sudo password", "root": None}, "^needs a password"),
    "not root": ("sudo", {"root__user_id": 1000}, "as user 1000: ansible_become must not be false"),
    "macOS": ("system", {"system": "Darwin", "user": None}, "needs Linux; this one has Darwin"),
    "no Python": (
        "python",
        {"python_problem": "/x does not run: not found", "user": None, "python": None},
        "/x does not run: not found; .*3.11 or later.*ansible_python_interpreter",
    ),
    "old Python": ("python", {"python": "3.9.2", "user": None}, "is 3.9.2; .*interpreter"),
    "mute": ("reachable", {"user": None, "user_problem": "killed"}, "cannot be asked: killed"),
    "32 bits": (
        "architecture",
        {"user__bits": 32, "user__machine": "armv7l"},
        r"32 bits \(armv7l\).*no torch.*64-bit.*aarch64, x86_64",
    ),
    "RISC-V": ("architecture", {"user__machine": "riscv64"}, "riscv64.*allowed: aarch64, x86_64"),
    "old kernel": ("kernel", {"user__kernel": "4.19.0"}, "4.19.0 .*allowed: 5.3 or later"),
    "full": ("disk", {"user__disk__free_bytes": 10**5}, "^0.1 MB are free at .* 1 MB are needed"),
    "read only": ("disk", {"user__disk__writable": False}, "ada may not write to worker_home"),
    "no netem": ("netem", {"root__netem__problem": "needs sch_netem"}, "^needs sch_netem$"),
    "no tc": (
        "netem",
        {"user__tools": ["ip"], "given__install": False},
        "^tc are not installed .*iproute2.*common_install is false",
    ),
    "SIGILL": (
        "torch",
        {"user__worker": PYTHON | {"torch": None, "problem": "ended by SIGILL"}},
        "^ended by SIGILL$",
    ),
    "no torch": (
        "torch",
        {"user__worker": PYTHON | {"torch": None, "missing": ["torch"]}},
        "worker_python /opt/python lacks: torch",
    ),
    "old worker": (
        "python",
        {"user__worker": PYTHON | {"python": [3, 10, 4]}},
        "/opt/python is 3.10.4; allowed: 3.11 or later",
    ),
    "governor": (
        "governor",
        {"user__governors": {"policy0": ["powersave"]}},
        "policy0 has no 'performance'; allowed as worker_governor: powersave",
    ),
    "throttled": ("throttled", {"user__throttling": 0b101}, "under-voltage, throttled"),
    "taken": (
        "ports",
        {"user__ways__ports": {"29400": "Address already in use"}},
        "^port 29400 is taken; .*data_port",
    ),
    "address": (
        "path",
        {"user__ways__ports": {"29400": "Cannot assign requested address"}},
        "data_address 10.0.0.1 is none of this host's; it has: 10.0.0.1",
    ),
    "late": ("clock", {"sent_unix_ns": NOON_NS + 3600 * 10**9}, r"1\.0 h|60 min.*behind"),
    "early": ("clock", {"received_unix_ns": NOON_NS - 90 * 10**9}, "90.0 s ahead of .*60 s"),
    "swept": ("sweep", {"root__sweeps": [SWEPT]}, "run other of bob, .*another ansible-playbook"),
    "left": ("sweep", {"root__sweeps": [SWEPT | GONE]}, "ends within 18 s: wait.*restore.yml"),
}

NOTES: dict[str, tuple[str, dict[str, Any], str]] = {
    "16 KB": ("page size", {"user__page_bytes": 16384}, "16 KB.*kernel8.img"),
    "zram": (
        "swap",
        {"user__swaps": [{"name": "/dev/zram0", "bytes": 2**31, "used_bytes": 2**20}]},
        r"/dev/zram0 is compressed memory \(2048 MiB, of which 1 are used\)",
    ),
    "throttled once": ("throttled", {"user__throttling": 1 << 16}, "since its last boot: under"),
    "no governor": ("governor", {"user__board": "Raspberry Pi 5"}, "offers none"),
    "clock": ("clock", {"sent_unix_ns": NOON_NS + 5 * 10**9}, r"^it is 5\.0 s behind"),
    "htb": ("netem", {"root__netem__warnings": ["shaped by htb"]}, "^shaped by htb$"),
}


def test_a_host_with_which_all_is_well_is_not_in_the_table() -> None:
    assert judged({"pi": answer(), "server": answer()}) == []
    tools = answer(user__tools=[], given__governor="", user__worker=PYTHON, user__page_bytes=16384)
    assert judged({"pi": tools}) == []


@pytest.mark.parametrize("case", PROBLEMS)
def test_a_problem_is_found_by_its_check_and_by_no_other(case: str) -> None:
    check, changes, said = PROBLEMS[case]
    [found] = judged({"pi": answer(**changes), "server": answer()})
    assert (found.host, found.check, found.note) == ("pi", check, False)
    assert re.search(said, found.text), found.text


@pytest.mark.parametrize("case", NOTES)
def test_what_is_worth_a_note_is_no_problem(case: str) -> None:
    check, changes, said = NOTES[case]
    [found] = judged({"pi": answer(**changes)})
    assert (found.host, found.check, found.note) == ("pi", check, True)
    assert re.search(said, found.text), found.text


def test_the_time_of_a_slow_answer_is_not_taken_for_an_error_of_the_clock() -> None:
    hour_ns = 3600 * 10**9
    assert not judged({"pi": answer(received_unix_ns=NOON_NS + hour_ns)})
    times = {"received_unix_ns": NOON_NS + hour_ns, "user__ended_unix_ns": NOON_NS + hour_ns - 1}
    assert not judged({"pi": answer(**times)})


def test_what_the_same_run_has_left_is_no_problem_unless_it_is_being_measured() -> None:
    taken = {"user__ways__ports": {"29400": "Address already in use"}}
    stage = {"29400": {"who": "pid 7 of ada (python)", "run": "mine"}}
    left = answer(root__sweeps=[SWEPT | GONE | {"run": "mine"}], root__holders=stage, **taken)
    assert judged({"pi": left}, run="mine") == []
    assert [each.check for each in judged({"pi": left}, run="yours")] == ["sweep", "ports"]
    measured = answer(root__sweeps=[SWEPT | {"run": "mine"}])
    assert [each.check for each in judged({"pi": measured}, run="mine")] == ["sweep"]
    assert "by pid 7 of ada (python)" in judged({"pi": left})[1].text


def test_ways_that_fail_are_told_once_for_each_peer_that_could_have_answered() -> None:
    calls = [
        {"peer": "server", "port": port, "problem": "no answer within 2 s"}
        for port in (29400, 29401)
    ]
    caller = answer(user__ways__calls=calls)
    [found] = judged({"pi": caller, "server": answer()})
    assert (found.host, found.check) == ("pi", "path")
    assert "does not reach server at 10.0.0.2, port 29400 and 29401: no answer" in found.text
    taken = answer(user__ways__ports={"29400": "Address already in use", "29401": None})
    found_all = judged({"pi": caller, "server": taken})
    assert [each.check for each in found_all] == ["ports", "path"]
    assert "port 29401: no answer" in found_all[1].text
    off = answer(unreachable="off", user=None, root=None)
    assert [each.check for each in judged({"pi": caller, "server": off})] == ["reachable"]


@pytest.mark.parametrize(
    ("path", "value"),
    [("user.free_memory_bytes", "much"), ("user.disk", None), ("root.sweeps", [{}])],
)
def test_what_a_host_tells_is_not_believed(path: str, value: Any) -> None:
    part = path.partition(".")[0]
    known = parse(raw({path: value}))
    assert getattr(known, part) is None
    [found] = judged({"pi": known})
    assert found.check == {"user": "reachable", "root": "sudo"}[part]
    assert f"told something else than expected: {path}" in found.text


def test_the_table_has_a_line_for_each_finding_in_the_order_of_hosts_and_checks() -> None:
    found = [
        Finding("server", "clock", "late", note=True),
        Finding("pi", "throttled", "hot"),
        Finding("pi", "sudo", "one\ntwo \x1b[31mthree"),
    ]
    assert table(found, ["pi", "server"]).splitlines() == [
        "host    check      what is the matter",
        "pi      sudo       one two [31mthree",
        "pi      throttled  hot",
        "server  clock      note: late",
    ]
    assert len(table([Finding("pi", "sudo", "x" * 10**6)], ["pi"])) < 2000
    changed = allowed(found, ["throttled"])
    assert [each.note for each in changed] == [True, True, False]
    with pytest.raises(AllowError, match=f"no check 'hot'; allowed: {CHECKS[0]}, "):
        allowed(found, ["hot"])

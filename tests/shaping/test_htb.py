"""Rates that the kernel's htb keeps where there is no netem, between two namespaces."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from paretopipe_worker.link import state
from paretopipe_worker.link.conditions import Condition, TcpSettings
from paretopipe_worker.link.replay import Replay
from paretopipe_worker.link.traces import Timetable
from tests.helpers.namespaces import INTERFACE, reason_without_namespaces
from tests.helpers.shaped_link import (
    DATA_PORT,
    TAKES_A_RELAY,
    WithoutNetem,
    connect,
    datagrams,
    must_take_ms,
    profile,
    rate20_is_kept,
    serve,
    shaped_link,
    traced,
    transfer_ms,
    without_netem,
)
from tests.helpers.sweeps import ROOT
from tests.helpers.waiting import until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.must_run,
    pytest.mark.skipif(bool(reason_without_namespaces()), reason=reason_without_namespaces()),
]

RATE20, RATE5 = Condition(rate_mbit=20), Condition(rate_mbit=5)


@pytest.fixture
def link(tmp_path: Path) -> Iterator[WithoutNetem]:
    with shaped_link(tmp_path) as made:
        yield WithoutNetem(made.hosts, made.folder)


def alone(words: list[str]) -> list[str]:
    """Arguments of ``link apply`` on a host where no relay may shape."""
    return [word for word in words if word != "--emulate"]


@pytest.mark.alone
def test_a_rate_alone_is_kept_by_the_kernel_without_a_relay(link: WithoutNetem) -> None:
    for rank in (0, 1):
        assert link.apply(RATE20, tcp=TcpSettings("reno"), rank=rank)["engine"] == "htb"
        assert not link.apply(RATE20, tcp=TcpSettings("reno"), rank=rank)["changed"]
    assert link.devices() == [INTERFACE, "lo"]
    left = state.read(link.state())
    assert (left.engine, left.relayed()) == ("htb", None)
    rate20_is_kept(link)


def test_any_rate_is_had_as_it_was_asked_for(link: WithoutNetem) -> None:
    for rate_mbit in (0.001, 0.7, 33.333, 1234.567, 100_000):
        words = alone(link.asking(Condition(rate_mbit=rate_mbit), tcp=None))
        applied = link.call("apply", *words)
        assert applied["engine"] == "htb", applied
        assert applied["after"].splitlines() == link.show()
        assert not link.call("apply", *words)["changed"]


@pytest.mark.alone
def test_ipv6_has_the_same_rate(link: WithoutNetem) -> None:
    for rank in (0, 1):
        link.apply(RATE20, rank=rank)
    serve(link.hosts[1], DATA_PORT, 6)
    with connect(*link.hosts, DATA_PORT, 6) as data:
        transfer_ms(data, 200_000)
        must = must_take_ms(200_000, 20)
        assert min(transfer_ms(data, 200_000) for _ in range(3)) == pytest.approx(must, rel=0.1)


def test_what_htb_cannot_do_well_enough_goes_through_the_relay_where_it_may(
    link: WithoutNetem,
) -> None:
    for condition in (TAKES_A_RELAY, RATE5, Condition(rate_mbit=20, loss_percent=1)):
        assert link.apply(condition)["engine"] == "relay"


def test_a_killed_keeper_leaves_the_link_shaped(link: WithoutNetem) -> None:
    link.apply(RATE20)
    shaped = link.show()
    [keeper] = link.keepers()
    os.kill(keeper, signal.SIGKILL)
    until(lambda: link.keepers() == [], "the keeper's end")
    assert link.show() == shaped
    again = link.apply(RATE20)
    assert (again["changed"], again["commands"]) == (True, [])
    assert len(link.keepers()) == 1


@pytest.mark.alone
def test_a_trace_of_rates_steps_in_place(link: WithoutNetem) -> None:
    conditions = (RATE20, Condition(rate_mbit=10), Condition())
    asked = traced(Timetable((0, 0.1, 0.2), 0.3), conditions, link.hosts[1].address)
    applied = link.call("apply", *link.arguments(asked))
    assert applied["engine"] == "htb"
    replay = Replay(link.state())
    serve(link.hosts[1], DATA_PORT)
    with connect(*link.hosts, DATA_PORT) as data:
        for segment in (1, 0, 2):
            replay.hold(segment)
            [shown] = [line for line in link.show() if line.startswith("class")]
            rate = conditions[segment].rate_mbit
            assert f"rate {round((rate or 10_000) * 1000)} kbit/s" in shown
            transfer_ms(data, 300_000)  # the ramp
            took = min(transfer_ms(data, 200_000) for _ in range(2))
            if rate:
                assert took == pytest.approx(must_take_ms(200_000, rate), rel=0.1), segment
            else:
                assert took < must_take_ms(200_000, 20) / 2
    # Three to a segment, and slower than they are sent in one of them.
    replay.run()
    came = [number for number, _ in datagrams(*link.hosts, 500, 0.001, size=1400)]
    assert came == list(range(500))


def checked(link: WithoutNetem, *conditions: Condition) -> Any:
    """What ``link check`` says of profiles on a host where no relay may shape."""
    profiles = [
        json.loads(profile(f"p{n}", each, "10.77.0.2")) for n, each in enumerate(conditions)
    ]
    text = json.dumps([{**each, "ways": {"pi": each["ways"]}} for each in profiles])
    (link.folder / "profiles").write_text(text)
    fed = ("sh", "-c", f'exec "$@" <{link.folder}/profiles', "sh")
    return link.call("check", "--host", "pi", "--ports", str(DATA_PORT), before=fed)


def test_a_plan_is_checked_by_what_each_profile_needs(link: WithoutNetem) -> None:
    found = checked(link, RATE20, RATE5)
    assert found["engines"] == {"p0": "htb", "p1": "htb"}
    [warning] = found["warnings"]
    assert warning.startswith("pi: profile p1 will be shaped by htb, because this kernel")
    refused = checked(link, RATE20, TAKES_A_RELAY)
    assert refused.startswith("pi: profile p1 asks for more than a rate, which needs netem")
    assert "sch_netem" in refused and "linux-modules-extra" in refused
    assert link.show()[-1] == "root noqueue"


def test_the_role_takes_rates_on_a_host_without_netem_and_refuses_delay_there(
    tmp_path: Path,
) -> None:
    asked = {"rates": RATE20, "slow": RATE5, "far": TAKES_A_RELAY}
    ways = {name: json.loads(profile(name, each, "10.77.0.2")) for name, each in asked.items()}
    profiles = [{**each, "ways": {name: each["ways"]}} for name, each in ways.items()]
    tasks = [{"ansible.builtin.include_role": {"name": "netem", "tasks_from": "check"}}]
    variables = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "ansible_become": False,
        "netem_profiles": profiles,
        "netem_ports": [DATA_PORT, DATA_PORT],
        "worker_runtime": {
            "root": ["env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "paretopipe_worker"]
        },
    }
    book = [{"hosts": "all", "gather_facts": False, "vars": variables, "tasks": tasks}]
    (tmp_path / "book.json").write_text(json.dumps(book))
    done = subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "-i", "rates,slow,far,",
         tmp_path / "book.json"],
        env={**os.environ, **without_netem(tmp_path / "bin"),
             "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json"},
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert {host: bool(each["failures"]) for host, each in found["stats"].items()} == {
        "rates": False, "slow": False, "far": True,
    }  # fmt: skip
    results = [task["hosts"] for play in found["plays"] for task in play["tasks"]]
    [refused] = [each["far"]["msg"] for each in results if each.get("far", {}).get("failed")]
    assert refused.startswith("far: profile far asks for more than a rate, which needs netem")
    warned = {
        host for each in results for host in each if "slow will be shaped by htb" in str(each[host])
    }
    assert warned == {"slow"}

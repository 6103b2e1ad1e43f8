"""A table of links, measured by the playbook on two hosts of inventory/three; the third is off."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd
import pytest
import yaml

from analysis import links
from tests import ROOT
from tests.helpers.labs import nothing_left, throwaway
from tests.helpers.namespaces import reason_without_namespaces
from tests.helpers.sweeps import Checkout, Done

pytestmark = [
    pytest.mark.slow,
    pytest.mark.must_run,
    pytest.mark.skipif(bool(reason_without_namespaces()), reason=reason_without_namespaces()),
]

PLAYBOOK = (".venv/bin/ansible-playbook", "playbooks/links.yml")
BRIEF = json.dumps(
    {
        "links_goodput_s": 0.2,
        "links_goodput_mb": 5,
        "links_transfer_bytes": [1000],
        "links_idle_repeats": 1,
        "links_datagrams": 130,
        "links_datagram_interval_s": 0.002,
        "links_results": "results/links-test",
    }
)


@dataclass(frozen=True)
class Ran:
    """A playbook's run: its checkout, how it ended, and the table that it left."""

    copy: Checkout
    done: Done
    found: links.Links


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    """Three hosts of this machine, of which one is not reached."""
    inventory = yaml.safe_load((ROOT / "inventory/three/hosts.yml").read_text())
    children = inventory["all"]["children"]
    children["local_lab"] = {"hosts": {"edge": {}, "server": {}}}
    # Nobody listens at this port of this machine.
    off = {"ansible_host": "127.0.0.1", "ansible_port": 1, "ansible_connection": "ssh"}
    children["stages"]["hosts"]["hub"] |= off
    with throwaway(tmp_path_factory.mktemp("links") / "checkout") as copy:
        copy.write("inventory/three/hosts.yml", yaml.safe_dump(inventory, sort_keys=False))
        done = copy.run(*PLAYBOOK, "-i", "inventory/three", "-e", BRIEF)
        nothing_left(copy)
        yield Ran(copy, done, links.read(copy.root / "results/links-test"))


@pytest.fixture
def rows(ran: Ran) -> pd.DataFrame:
    assert ran.done.code == 0, ran.done.output
    return ran.found.links.set_index(["source", "sink"])


def test_every_way_between_hosts_that_are_up_is_measured(ran: Ran, rows: pd.DataFrame) -> None:
    assert len(rows) == 6
    for way in (("edge", "server"), ("server", "edge")):
        row = rows.loc[way]
        assert pd.isna(row["reason"]), row["reason"]
        measured = ["round_trip_median_ms", "round_trip_p95_ms", "goodput_mbit", "loss_percent"]
        assert row[[*measured, "kernel", "started_utc"]].notna().all(), row
        # As a sweep sets TCP, whatever the machine's own settings are.
        assert (row["congestion_control"], row["slow_start_after_idle"]) == ("cubic", False)
        assert row["source_address"] == {"edge": "10.0.0.1", "server": "10.0.0.3"}[way[0]]
    transfers = ran.found.transfers
    assert len(transfers) == 4 and transfers["median_ms"].gt(0).all()


def test_a_host_that_is_off_costs_its_own_pairs_alone(rows: pd.DataFrame) -> None:
    for way in rows.index[["hub" in way for way in rows.index]]:
        assert rows.loc[way, "reason"].startswith("hub was not reached: "), rows.loc[way, "reason"]
        assert rows.loc[way, ["goodput_mbit", "round_trip_median_ms", "kernel"]].isna().all()


def test_the_time_it_takes_is_said_before_and_the_table_after(ran: Ran) -> None:
    said, _, rest = ran.done.output.partition("3 hosts, 3 pairs, one after the other: about ")
    assert "Measure the pair" not in said and "Measure the pair edge and server" in rest
    assert "round trip ms" in rest and "1 KB warm ms" in rest
    folder = ran.copy.root / "results/links-test"
    assert {path.name for path in folder.iterdir()} >= {"links.json", "links.csv", "transfers.csv"}


def test_a_trial_says_what_would_be_measured_and_writes_nothing(ran: Ran) -> None:
    more = json.dumps({"links_side_by_side": True, "links_results": "results/links-trial"})
    done = ran.copy.run(*PLAYBOOK, "-i", "inventory/three", "--check", "-e", more).succeeded()
    # Of three hosts no two pairs have no common host.
    assert "3 hosts, 3 pairs, one after the other" in done.output
    assert "nothing was written, and no host was touched" in done.output
    assert not (ran.copy.root / "results/links-trial").exists()

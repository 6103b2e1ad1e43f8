"""A whole sweep that goes well: ``make sweep`` on the local lab."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from paretopipe_worker.host.supervise import STAGE_ENVIRONMENT
from paretopipe_worker.records.lines import SHARES, Header, LegEnd
from paretopipe_worker.records.probes import Probe
from paretopipe_worker.shaping.interfaces import probe_kernel
from tests.helpers.labs import HOSTS, Lab, nothing_left, shaped, throwaway, watched
from tests.helpers.namespaces import reason_without_namespaces
from tests.helpers.sweeps import Checkout, Done

pytestmark = [
    pytest.mark.must_run,
    pytest.mark.alone,
    pytest.mark.skipif(bool(reason_without_namespaces()), reason=reason_without_namespaces()),
]

TINY = "experiments/tiny.yml"
LINKS = {"none", "far"}
SPLITS = {"@first", "@last", *(str(layer) for layer in range(6))}
SESSIONS = sorted(f"r0-{link}-tcp-paretopipe_worker.model.tiny.network-p0" for link in LINKS)


@dataclass
class Measured:
    """A sweep that went well."""

    checkout: Checkout
    done: Done
    second: Done
    links_before: dict[str, str]
    links_after: dict[str, str]

    def __post_init__(self) -> None:
        self.results = self.checkout.results("tiny")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Measured]:
    with throwaway(tmp_path_factory.mktemp("measured") / "checkout") as copy:
        # The hosts are one machine and disturb each other: to measure a leg again would not help.
        text = (copy.root / TINY).read_text().replace("max_s: 10}", "max_s: 10, retries: 0}")
        assert "retries: 0" in text
        copy.write(TINY, text)
        running = copy.start("make", "sweep", f"ARGS=-e experiment={TINY} -e run=tiny")
        with watched(copy, running) as lab:
            before = lab.links()
            second = copy.sweep(TINY, "second")
            done = running.wait().succeeded()
            after = lab.links()
        yield Measured(copy, done, second, before, after)


def test_make_sweep_ends_well_and_leaves_all_that_is_promised(measured: Measured) -> None:
    assert "set-up:" not in measured.done.output, "there was nothing to set up"
    names = {str(path.relative_to(measured.results.folder))
             for path in measured.results.folder.rglob("*")}  # fmt: skip
    files = {f"records/{host}/{session}.1.jsonl" for host in HOSTS for session in SESSIONS}
    figures = {f"figures/{kind}-paretopipe_worker.model.tiny.network.{ending}"
               for kind in ("front", "breakdown") for ending in ("png", "svg")}  # fmt: skip
    tables = {"points.csv", "front.csv", "predictions.csv"}
    assert names >= files | figures | tables | {"plan.json", "manifest.json", "report.html"}
    assert (measured.checkout.root / "results/latest").resolve() == measured.results.folder


def test_make_sweep_ends_with_the_answer_and_the_path_of_the_report(measured: Measured) -> None:
    printed = measured.done.output
    answer, report = printed.rindex("Splitting "), printed.rindex("Report: ")
    assert printed.rindex("Where to split?") < answer < report
    assert f"Report: results/{measured.results.folder.name}/report.html" in printed[report:]


def test_every_split_was_measured_and_is_exact(measured: Measured) -> None:
    points = measured.results.points
    assert len(points) == len(LINKS) * len(SPLITS)
    assert set(zip(points["link"], points["split"], strict=True)) == {
        (link, split) for link in LINKS for split in SPLITS
    }
    assert set(points["status"]) == {"ok"}
    assert set(points["output"]) == {"exact"}
    assert points["gate"].all()
    crossing = points[points["split"] != "@first"]
    assert (crossing["crossed"] == True).all()  # noqa: E712 - a column
    assert (crossing["wire_sent_bytes"] > crossing["payload_sent_bytes"]).all()
    assert (points[points["split"] == "@first"]["payload_sent_bytes"] == 0).all()


def test_the_sweep_says_what_it_does_and_prints_the_front(measured: Measured) -> None:
    output = measured.done.output
    for link in LINKS:
        found = re.findall(
            rf"network {link} tcp  split +(\d+) of {len(SPLITS)} .* img/s .* ms .* left", output
        )
        assert sorted(map(int, found)) == list(range(1, 1 + len(SPLITS))), output
    assert "16 points (1 models, 2 links, 1 backends), 1 replicates, 2 sessions" in output
    assert "16 of 16 points measured" in output
    # On a busy machine a relayed link may not be what was asked for: then it has no front.
    points = measured.results.points
    for link in set(points[points["link_certified"].ne(False)]["link"]):
        assert (
            f"paretopipe_worker.model.tiny:network over link {link}: edge > server, tcp" in output
        )
    endpoints = {"@first": "all on edge", "@last": "all on server"}
    for row in measured.results.front.itertuples():
        name = re.escape(endpoints.get(str(row.split), str(row.split)))
        shown = re.findall(rf"{name} +([\d.]+) +([\d.]+)", output)
        # The report rounds to two decimals, or to two digits where a figure is below 0.1.
        expected = pytest.approx((row.latency_median_ms, row.throughput_images_s), rel=0.05)
        assert any(tuple(map(float, figures)) == expected for figures in shown), output
    assert "Validating arguments" not in output
    assert "WARNING" not in output
    waiting = output.index("TASK [session : Run the sessions of the host]")
    assert waiting < output.index("session 1 of 2:") < output.index(f"split 1 of {len(SPLITS)}")


def test_links_are_shaped_as_asked_and_put_back(measured: Measured) -> None:
    emulated = measured.results.points.groupby("link")["link_emulated"].agg(set).to_dict()
    netem = probe_kernel()["netem"]
    assert emulated == {"none": {False}, "far": {not netem}}
    engines = measured.results.points.groupby("link")["link_engine"].agg(set).to_dict()
    assert engines == {"none": {"none"}, "far": {"netem" if netem else "relay"}}
    goodput_mbit: dict[str, list[float]] = {link: [] for link in LINKS}
    round_trip_ms = dict(goodput_mbit)
    for file in measured.results.records():
        for record in file:
            if isinstance(record, Probe):
                assert isinstance(file[0], Header)
                link = file[0].link
                goodput_mbit[link] = goodput_mbit[link] + [*record.goodput_mbit]
                median_ms = statistics.median(record.round_trip_ns) / 1e6
                round_trip_ms[link] = round_trip_ms[link] + [median_ms]
    assert len(goodput_mbit["far"]) == len(goodput_mbit["none"]) == 4, "both ways, before and after"
    assert goodput_mbit["far"] == pytest.approx([20 * 1448 / 1514] * 4, rel=0.1)
    assert min(goodput_mbit["none"]) > 40
    assert round_trip_ms["far"] == pytest.approx([11.5] * 2, abs=2)
    assert max(round_trip_ms["none"]) < 5
    assert not shaped(measured.links_before)
    assert measured.links_after == measured.links_before


def test_each_host_runs_one_stage_process_per_session(measured: Measured) -> None:
    for host in HOSTS:
        ends = measured.results.ends(host)
        assert sorted(header.session for header, _ in ends) == SESSIONS
        assert [end.status for _, end in ends if end] == ["ok", "ok"]
        # By the records alone: as many processes as there are combinations, and each of them went
        # through every point.
        plan = measured.results.plan["experiment"]
        factors = ("links", "backends", "models")
        count = math.prod(len(plan[factor]) for factor in factors) * plan["replicates"]
        assert len({end.process_start_ns for _, end in ends if end}) == len(ends) == count
        for file in measured.results.records():
            assert isinstance(file[0], Header)
            if file[0].host == host:
                walked = {line.point for line in file if isinstance(line, LegEnd)}
                assert len(walked) == len(SPLITS) - (host != HOSTS[0]), "@first is the source's"
        launched = measured.checkout.root.glob(f".lab/{host}/home/runs/tiny/*.status.json")
        assert len(list(launched)) == 2


def test_the_manifest_says_where_each_sessions_time_went(measured: Measured) -> None:
    sessions = measured.results.manifest["sessions"]
    assert sorted(session["session"] for session in sessions) == SESSIONS
    for session in sessions:
        assert session["overhead"]["points"] == len(SPLITS)
        for host in HOSTS:
            shares = session["hosts"][host]["shares_s"]
            assert set(shares) == {*SHARES, "other"}
            assert sum(shares.values()) <= session["overhead"]["lifetime_s"] + 1e-6


def test_the_manifest_says_what_the_hosts_are(measured: Measured) -> None:
    edge, server = measured.results.manifest["hosts"]
    assert edge["inventory"]["device_emulated"] == 2 and server["inventory"]["netem_emulate"]
    for host in (edge, server):
        assert host["facts"]["distribution"]
        [environment] = host["environments"]
        assert sorted(environment["sessions"]) == [f"{session}.1" for session in SESSIONS]
        assert environment["facts"]["allocator"] == STAGE_ENVIRONMENT
    for session in measured.results.manifest["sessions"]:
        shaping = session["hosts"]["edge"]["link_engine"] != "none"
        qdiscs = session["hosts"]["edge"]["network"]["qdiscs"]
        assert any("qdisc htb" in line for line in qdiscs) == shaping


def test_every_leg_tells_the_host_s_health(measured: Measured) -> None:
    legs = [line for file in measured.results.records() for line in file if type(line) is LegEnd]
    assert legs
    for leg in legs:
        assert leg.health is not None
        assert leg.health.others_cpu is not None and leg.health.swapped_pages is not None


def test_nothing_is_left_of_a_sweep(measured: Measured) -> None:
    nothing_left(measured.checkout)
    assert not Lab(measured.checkout).is_up


def test_tables_and_front_come_again_from_the_records_alone(measured: Measured) -> None:
    tables = [measured.results.folder / name for name in ("points.csv", "front.csv")]
    before = [path.read_bytes() for path in tables]
    for path in tables:
        path.unlink()
    done = measured.checkout.run(".venv/bin/python", "-m", "analysis.pareto", "results/latest")
    assert "16 of 16 points measured" in done.succeeded().output
    assert [path.read_bytes() for path in tables] == before


def test_a_second_sweep_meanwhile_is_refused(measured: Measured) -> None:
    measured.second.refused("belongs to another run of Ansible", "(pid ", "restore.yml")
    assert not measured.checkout.results("second").raw()


@pytest.mark.long
def test_the_same_run_again_measures_nothing(measured: Measured) -> None:
    records = measured.results.raw()
    done = measured.checkout.sweep(TINY, "tiny").succeeded()
    assert "0 of 2 sessions to go" in done.output
    assert "16 of 16 points measured" in done.output
    assert "  session 1 of" not in done.output
    assert measured.results.raw() == records
    nothing_left(measured.checkout)

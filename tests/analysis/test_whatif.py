"""Links that were never measured: predictions where the truth is known, and the map of links."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis import whatif
from analysis.answers.borders import best_by_link
from analysis.answers.elsewhere import each_split, named, predicted, sentences
from analysis.figures.whatif_figure import Regions, whatif_figure
from analysis.measures.replicates import replicates
from analysis.prediction.costs import Costs, Hop
from analysis.prediction.elsewhere import Base, Link, bases
from analysis.prediction.parts import PredictionError, hop
from analysis.run import Run, read
from tests.helpers.fake_legs import period_ms
from tests.helpers.fake_plan import THREE, TWO_LINKS, expected_ms, make, mobilenet_table, tiny_table
from tests.helpers.fake_run import FakeRun
from tests.helpers.figures import assert_texts_are_clear, one_page, overlapping

ABOUT: dict[str, Any] = {
    "model": "made-up",
    "placement": "pi>server",
    "link": "none",
    "backend": "tcp",
    "batch": 1,
    "window": 1000,
    "dtype": "float32",
    "runtimes": "eager",
    "wire": "fp32",
    "busy": False,
    "sources": 1,
}
PI_MS, SERVER_MS = 60.0, 20.0
SENT = (600_000.0, 60_000.0, 0.0)
BACK = 4000.0
SOFTWARE = Hop(delay_ms=0.0, ms_per_byte=1e-7, message_ms=0.5)


def base(**about: object) -> Base:
    """A pipeline whose latencies anybody can add up: half of the work lies before the one cut."""
    share = np.array([0.0, 0.5, 1.0])
    times = np.vstack((PI_MS * share, SERVER_MS * share))
    costs = Costs(
        places=("@last", "middle", "@first"),
        hosts=("pi", "server"),
        waiting_ms=times,
        busy_ms=times,
        forward_bytes=np.array(SENT),
        return_bytes=BACK,
        hops=(SOFTWARE,),
        back=(None, SOFTWARE),
    )
    return Base(ABOUT | about, costs, (0.021, 0.034), (None, None), ())


def byte_ms(rate_mbit: float) -> float:
    """What the wire takes for a byte of tensors."""
    return hop(rate_mbit, 0.0, SOFTWARE).ms_per_byte


@pytest.fixture(scope="module")
def borders() -> pd.DataFrame:
    """Where the best split of that pipeline changes."""
    rates, delays = np.geomspace(1, 1000, 21), np.geomspace(0.1, 100, 21)
    return best_by_link(base(), rates=rates, delays=delays).borders


def of(borders: pd.DataFrame, objective: str, *splits: str) -> pd.DataFrame:
    """The borders between two splits, whichever comes first."""
    pairs = borders[["predicted_before", "predicted_after"]].apply(set, axis=1)
    found = borders[(borders["objective"] == objective) & (pairs == set(splits))]
    assert set(found["along"]) <= {"rate", "delay"}
    assert len(found), borders.to_string()
    return found


def test_the_best_latency_changes_where_two_sums_are_equal(borders: pd.DataFrame) -> None:
    """All on pi against the cut: 60 = 40 + wire + 1 ms of software + twice the delay."""
    for row in of(borders, "latency", "@first", "middle").to_dict("records"):
        wire = (SENT[1] + BACK) * byte_ms(row["rate_mbit"])
        cut = (PI_MS + SERVER_MS) / 2 + wire + 2 * (SOFTWARE.message_ms + row["delay_ms"])
        assert cut == pytest.approx(PI_MS, rel=1e-3), row


def test_two_cuts_change_places_at_one_rate_whatever_the_delay(borders: pd.DataFrame) -> None:
    """Sending the input costs 540 kB more and saves 20 ms of computing."""
    saved = (PI_MS - SERVER_MS) / 2
    for row in of(borders, "latency", "middle", "@last").to_dict("records"):
        assert row["along"] == "rate"
        more = (SENT[0] - SENT[1]) * byte_ms(row["rate_mbit"])
        assert more == pytest.approx(saved, rel=1e-3), row


def test_the_best_throughput_changes_where_the_wire_is_as_busy_as_a_stage(
    borders: pd.DataFrame,
) -> None:
    """Where the window is never full: all on pi takes 60 ms, the cut 30 ms or its wire."""
    for row in of(borders, "throughput", "@first", "middle").to_dict("records"):
        assert SENT[1] * byte_ms(row["rate_mbit"]) == pytest.approx(PI_MS, rel=1e-3), row
    for row in of(borders, "throughput", "middle", "@last").to_dict("records"):
        assert SENT[0] * byte_ms(row["rate_mbit"]) == pytest.approx(PI_MS / 2, rel=1e-3), row


def test_a_slow_way_back_moves_the_border() -> None:
    """What returns takes 32 ms at 1 Mbit/s, so that no cut answers sooner than pi alone."""
    rates, delays = np.geomspace(1, 1000, 5), np.array([0.1, 0.2])
    back = Link(1, 0, return_rate_mbit=1)
    made = best_by_link(base(), back, rates, delays)
    latency = {made.splits[number] for number in np.unique(made.best[0])}
    assert latency == {"@first", "@last"}, made.borders.to_string()


def test_an_objective_is_told_with_its_error_and_as_predicted() -> None:
    found = predicted(base(), Link(rate_mbit=100, delay_ms=1))
    text = " ".join(sentences(found))
    assert text.startswith("Predicted: "), text
    assert "leave-one-out error 2.1 % in latency, 3.4 % in throughput" in text, text
    best = found["predicted_best"]
    wire = (SENT[1] + BACK) * byte_ms(100)
    assert best["latency"]["predicted_latency_ms"] == pytest.approx(40 + wire + 1 + 2)
    assert best["throughput"]["predicted_throughput_images_s"] == pytest.approx(1e3 / 30)


def test_images_of_a_batch_are_counted() -> None:
    one, four = (predicted(base(batch=batch), Link(100, 1)) for batch in (1, 4))
    rates = [
        found["predicted_best"]["throughput"]["predicted_throughput_images_s"]
        for found in (one, four)
    ]
    assert rates[1] == pytest.approx(4 * rates[0])


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Base:
    """The parts of MobileNetV2's pipeline over two links, where all items take the same."""
    plan = make(mobilenet_table(), links=TWO_LINKS)
    path = tmp_path_factory.mktemp("two") / "run"
    run = read(FakeRun(path, plan, items=8, noise=0.0).all_sessions().path)
    [made], refused = bases(run, replicates(run))
    assert not refused
    return made


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A small run over two links."""
    path = tmp_path_factory.mktemp("small") / "run"
    plan = make(tiny_table(), links=TWO_LINKS)
    return read(FakeRun(path, plan, items=8, noise=0.0).all_sessions().path)


@pytest.mark.parametrize("delay_ms", [0, 12])
def test_a_link_that_was_never_measured_is_predicted(found: Base, delay_ms: float) -> None:
    """Every split, against what the made-up pipeline takes over that link."""
    assert found.about["link"] == "none"
    asked = {"name": "new", "rate_mbit": 50, "delay_ms": delay_ms}
    there = make(mobilenet_table(), links=[asked])
    rows = {row["split"]: row for row in each_split(found, Link(50, delay_ms))}
    assert set(rows) == {"+".join(point.split) for point in there.points}
    for point in there.points:
        stage, wire = expected_ms(there, point)
        row = rows["+".join(point.split)]
        assert row["predicted_latency_ms"] == pytest.approx(sum(stage) + sum(wire), rel=0.03), row
        # The made-up wires are busy for as long as an item is under way, delay included.
        if not delay_ms:
            rate = 1e3 / period_ms(stage, wire, 3)
            assert row["predicted_throughput_images_s"] == pytest.approx(rate, rel=0.03), row


def test_the_errors_of_other_links_are_told(found: Base) -> None:
    assert [link.name for link in found.links] == ["none", "rate20"]
    assert found.links[1].rate_mbit == pytest.approx(20, rel=0.1)
    for error in (*found.left_out, *found.others):
        assert error is not None
        assert 0 <= error < 0.05


def test_the_command_says_what_is_predicted(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert whatif.main([str(run.path), "--rate", "50", "--delay", "12", "--return-delay", "3"]) == 0
    text = capsys.readouterr().out
    first, second, *_ = text.splitlines()
    assert first.startswith("tiny over link of 50 Mbit/s and 12 ms, back 3 ms, predicted: ")
    assert second.startswith("predicted front, ")
    assert "\nPredicted: " in text
    assert "leave-one-out error" in text


def test_no_prediction_has_a_measured_name(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert whatif.main([str(run.path), "--rate", "50", "--delay", "12", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    [block] = document["predictions"]
    assert len(block["predicted_splits"]) == 4
    for row in (*block["predicted_splits"], *block["predicted_front"]):
        assert set(row) == {"split", "predicted_latency_ms", "predicted_throughput_images_s"}


def test_the_map_is_drawn_and_its_borders_written(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = np.geomspace(1, 1000, 11)
    original = best_by_link
    monkeypatch.setattr(whatif, "best_by_link", lambda base, back: original(base, back, few, few))
    assert whatif.main([str(run.path), "--map"]) == 0
    files = [line.strip() for line in capsys.readouterr().out.splitlines()[1:]]
    names = [Path(file).relative_to(run.path).as_posix() for file in files]
    pictures = [f"figures/whatif-tiny.{kind}" for kind in ("png", "svg")]
    assert names == ["whatif.csv", *pictures]
    table = pd.read_csv(run.path / "whatif.csv")
    assert set(table["objective"]) == {"latency", "throughput", "knee"}
    assert table["predicted_before"].ne(table["predicted_after"]).all()
    assert "Predicted, not measured" in (run.path / pictures[1]).read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "say which link: --rate MBIT and --delay MS"),
        (("--rate", "10"), "--delay is missing"),
        (("--delay", "10"), "--rate is missing"),
        (("--rate", "0", "--delay", "1"), "--rate: a number from 0.001 to 100000; got '0'"),
        (("--rate", "nan", "--delay", "1"), "--rate: a number from 0.001 to 100000; got 'nan'"),
        (("--rate", "1", "--delay", "-1"), "--delay: a number from 0 to 10000; got '-1'"),
        (("--rate", "1", "--delay", "1", "--model", "vgg"), "one of tiny; got 'vgg'"),
    ],
)
def test_what_is_not_allowed_is_refused_in_a_line(
    run: Run, options: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        whatif.main([str(run.path), *options])
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_three_hosts_are_predicted_in_every_order(tmp_path: Path) -> None:
    """The fast host last or second: leaving out the slow one costs nothing over equal links."""
    order = ("@last", "body.0", "body.1", "@first")
    pairs = [[one, two] for at, one in enumerate(order) for two in order[at:]]
    plan = make(tiny_table(), hosts=THREE, links=["none"], splits={"cuts": pairs})
    run = read(FakeRun(tmp_path / "run", plan, noise=0).all_sessions().path)
    [found], _ = bases(run, replicates(run))
    block = predicted(found, Link(100, 1))
    orders = {row["placement"] for row in block["predicted_orders"]}
    assert orders, block
    assert all(placement.startswith("pi") for placement in orders)
    best = block["predicted_orders"][0]["predicted_latency_ms"]
    assert best <= block["predicted_front"][0]["predicted_latency_ms"] * (1 + 1e-9)
    told = list(sentences(block))
    assert any("all orders and subsets" in line for line in told), told
    assert not any("@" in line for line in told), told
    idle = {"split": "body.0+@first", "placement": "pi>server>cloud"}
    assert named(idle, idle) == "body.0 (no cloud)"


def test_too_many_splits_for_a_map_are_refused() -> None:
    places = 300
    share = np.linspace(0, 1, places)
    many = base().costs
    costs = Costs(
        tuple(map(str, range(places))),
        ("a", "b", "c"),
        np.tile(share, (3, 1)),
        np.tile(share, (3, 1)),
        np.append(np.ones(places - 1), 0.0),
        1.0,
        many.hops * 2,
        (*many.back, SOFTWARE),
    )
    with pytest.raises(PredictionError, match="a > b > c has 45150 splits"):
        best_by_link(Base(ABOUT, costs, (None, None), (None, None), ()))


@pytest.fixture
def regions() -> Callable[..., Regions]:
    """A map of four splits, each the best over a band of rates."""

    def made(links: list[tuple[str, float, float]]) -> Regions:
        rates, delays = np.geomspace(1, 1000, 31), np.geomspace(0.1, 100, 31)
        bands = np.tile(np.repeat([3, 2, 1, 0], [10, 10, 10, 1]), (31, 1))
        splits = ["@last", "features.5", "features.7", "@first"]
        best = np.stack([bands] * 3)
        return Regions("edge > server", "edge>server", splits, rates, delays, best, links)

    return made


def test_every_region_with_room_is_named_inside_itself(
    regions: Callable[..., Regions],
) -> None:
    made = regions([("rate20", 20.0, 0.5), ("none", 60_000.0, 0.01)])
    figure = one_page(whatif_figure("mobilenet_v2", [made, made]))
    assert_texts_are_clear(figure)
    panels = [axes for part in figure.subfigs for axes in part.axes]
    assert len(panels) == 6
    for axes in panels:
        where = {text.get_text(): text.get_position() for text in axes.texts}
        # All on server has one column of cells, too narrow even for a name that stands.
        assert set(where) == {"all on edge", "f.7", "f.5", "rate20"}
        columns = {name: at[0] for name, at in where.items() if name != "rate20"}
        assert columns["all on edge"] < 10 < columns["f.7"] < 100 < columns["f.5"] < 1000
        assert not overlapping(list(axes.texts), figure)
    assert any(
        "Beyond the map: none (60000 Mbit/s, 0.01 ms)" in text.get_text() for text in figure.texts
    )

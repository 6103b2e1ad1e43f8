"""Two runs of one experiment: what agrees, what does not, and what may not be compared."""

from __future__ import annotations

import dataclasses
import doctest
import itertools
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from analysis import compare as module
from analysis.compare import CompareError, compare, holm, main
from analysis.run import read
from analysis.tables.fronts_compared import welch
from tests.helpers.fake_plan import make, tiny_table
from tests.helpers.fake_run import ALLOCATOR, FakeRun
from tests.helpers.record_files import edit

pytestmark = pytest.mark.slow

CUT = "body.0"


def run_of(
    path: Path,
    name: str,
    *,
    seed: int,
    slower: dict[str, float] | None = None,
    replicates: int = 5,
    header: dict[str, Any] | None = None,
    **experiment: Any,
) -> Path:
    """A run whose replicates scatter by 2 %, some points `slower` by a factor in all of them."""
    plan = make(tiny_table(), run=name, replicates=replicates, **experiment)
    fake = FakeRun(path / name, plan, items=8, noise=0)
    chance = random.Random(seed)
    for session in plan.sessions:
        scale = chance.gauss(1, 0.02)
        files = fake.session(session, scale=scale, header=header)
        for split, factor in (slower or {}).items():
            (point,) = (p.id for p in plan.points if p.split == (split,))
            stretch(files[0], point, factor)
    return fake.path


def stretch(file: Path, point: str, factor: float) -> None:
    """Make one point slower in a source's records: its latencies and its times of completion."""

    def slower(line: dict[str, Any]) -> None:
        if line["point"] == point:
            line["latency_ns"] = int(line["latency_ns"] * factor)
            line["done_ns"] = int(line["done_ns"] * factor)

    edit(file, slower)


def test_two_runs_of_one_distribution_show_nothing(tmp_path: Path) -> None:
    first, second = (run_of(tmp_path, name, seed=n) for n, name in enumerate("ab"))
    document = compare(read(first), read(second))
    assert len(document["rows"]) == 4 * 2 and document["differing"] == []
    assert all(row["low"] < row["ratio"] < row["high"] for row in document["rows"])
    assert all(row["replicates"] == [5, 5] for row in document["rows"])


def test_a_change_of_ten_percent_in_one_point_shows_exactly_there(tmp_path: Path) -> None:
    first = run_of(tmp_path, "a", seed=1)
    second = run_of(tmp_path, "b", seed=2, slower={CUT: 1.1})
    document = compare(read(first), read(second))
    told = {(row["split"], row["objective"]): row for row in document["differing"]}
    assert set(told) == {(CUT, "latency_median_ms"), (CUT, "throughput_images_s")}
    latency = told[CUT, "latency_median_ms"]
    assert latency["low"] < 1.1 < latency["high"] and latency["low"] > 1
    throughput = told[CUT, "throughput_images_s"]
    assert throughput["low"] < 1 / 1.1 < throughput["high"] < 1


def test_the_half_width_is_that_of_the_intervals_of_the_ratio(tmp_path: Path) -> None:
    first, second = (run_of(tmp_path, name, seed=n) for n, name in enumerate("ab"))
    document = compare(read(first), read(second))
    widths = [100 * (row["high"] / row["ratio"] - 1) for row in document["rows"]]
    assert document["median_half_width_percent"] == pytest.approx(np.median(widths))
    # Replicates scatter by 2 %: of 5 of them each.
    assert 0.5 < document["median_half_width_percent"] < 8


def narrow(run: Path, replicates: int) -> None:
    """Halve the goodput that the probes of a run's first replicates found over `rate20`."""

    def halve(line: dict[str, Any]) -> None:
        line["goodput_mbit"] = [rate / 2 for rate in line["goodput_mbit"]]

    for file in run.glob("records/pi/*rate20*"):
        if json.loads(file.read_text().splitlines()[0])["replicate"] < replicates:
            edit(file, halve, "probe")


RATE: dict[str, Any] = {"links": [{"name": "rate20", "rate_mbit": 20}]}


def test_replicates_over_a_link_that_was_not_as_asked_for_are_left_out_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (run_of(tmp_path, name, seed=n, **RATE) for n, name in enumerate("ab"))
    narrow(second, 2)
    document = compare(read(first), read(second))
    assert {tuple(row["replicates"]) for row in document["rows"]} == {(5, 3)}
    assert all(row["sound"] for row in document["rows"])
    kept, lost = document["left_out"]
    assert kept == {"replicates": 0, "reasons": {}} and lost["replicates"] == 2 * 4
    [(reason, count)] = lost["reasons"].items()
    assert reason.startswith("rate20: goodput forward 9.57 Mbit/s") and count == 8
    assert document["only_in"] == [0, 0] and document["too_few"] == []
    assert main([str(first), str(second)]) == 0
    printed = capsys.readouterr().out
    assert "left out of b: 8 replicates of points whose link was not as asked for" in printed
    assert (
        "8 over rate20: goodput forward 9.57 Mbit/s" in printed and "left out of a" not in printed
    )
    assert main([str(first), str(second), "--uncertified", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["uncertified"] and document["left_out"][1]["replicates"] == 0
    for row in document["rows"]:
        assert row["replicates"] == [5, 5] and not row["sound"]
        assert [marks["uncertified"] for marks in row["marks"]] == [0, 2]


def test_runs_of_which_all_is_left_out_are_refused_naming_the_flag(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (run_of(tmp_path, name, seed=n, **RATE) for n, name in enumerate("ab"))
    narrow(second, 4)
    assert main([str(first), str(second)]) == 2
    told = capsys.readouterr().err
    assert f"{second}: 4 of 4 points that both runs measured have fewer than 2" in told
    assert "left out of b: 16 replicates" in told and "--uncertified" in told
    assert main([str(first), str(second), "--uncertified"]) == 0


def test_points_with_too_few_replicates_that_count_are_told_and_the_rest_is_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (
        run_of(tmp_path, name, seed=n, links=["none", *RATE["links"]])
        for n, name in enumerate("ab")
    )
    narrow(second, 4)
    document = compare(read(first), read(second))
    assert {row["link"] for row in document["rows"]} == {"none"} and len(document["rows"]) == 8
    assert {row["link"] for row in document["too_few"]} == {"rate20"}
    assert {tuple(row["replicates"]) for row in document["too_few"]} == {(5, 1)}
    assert main([str(first), str(second)]) == 0
    assert (
        "8 differences cannot be told, since fewer than 2 replicates count"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("mark", "change", "said"),
    [
        ("disturbed", {"disturbed": ["something else had the core"]}, "on a disturbed host"),
        ("late", {"relay_late_p99_ns": 2_500_000}, "while a relay was late"),
    ],
)
def test_differences_that_rest_on_marked_replicates_are_told_apart(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    mark: str,
    change: dict[str, Any],
    said: str,
) -> None:
    first = run_of(tmp_path, "a", seed=1)
    second = run_of(tmp_path, "b", seed=2, slower={CUT: 1.1, "body.1": 1.1})
    plan = read(second).plan
    (point,) = (point.id for point in plan.points if point.split == (CUT,))
    for file in sorted(second.glob("records/pi/*"))[:3]:
        edit(file, lambda line: line.update(change) if line["point"] == point else 0, "phase")
    document = compare(read(first), read(second))
    told = {(row["split"], row["objective"]): row for row in document["differing"]}
    assert len(told) == 4
    for (split, _), row in told.items():
        assert row["replicates"] == [5, 5], "marked replicates are compared"
        assert [marks[mark] for marks in row["marks"]] == ([0, 3] if split == CUT else [0, 0])
        assert row["sound"] == (split != CUT)
    assert main([str(first), str(second)]) == 0
    sound, doubtful = capsys.readouterr().out.split("but rest on replicates that are marked")
    assert "2 of 8 differences are not chance" in sound and "body.1" in sound
    assert f"of the replicates of b that are compared, 15 % were measured {said}" in sound
    assert "body.1" not in doubtful and doubtful.count("0 of 5, 3 of 5") == 2


def test_without_the_correction_equal_runs_would_show_differences() -> None:
    """Of 400 comparisons of one distribution a twentieth is below 5 %; corrected, none is."""
    chance = np.random.default_rng(5)
    p = [welch(chance.normal(size=5), chance.normal(size=5))[2] for _ in range(400)]
    assert sum(value < 0.05 for value in p) > 5
    assert (holm(p) > 0.05).all()


def welch_twin(a: list[float], b: list[float]) -> tuple[float, float, float]:
    """The formula as Welch wrote it."""
    parts = [np.var(values, ddof=1) / len(values) for values in (a, b)]
    error = np.sqrt(sum(parts))
    freedom = sum(parts) ** 2 / sum(
        part**2 / (len(values) - 1) for part, values in zip(parts, (a, b), strict=True)
    )
    difference = np.mean(b) - np.mean(a)
    p = 2 * stats.t.sf(abs(difference) / error, freedom)
    return float(difference), float(stats.t.ppf(0.975, freedom) * error), float(p)


VALUES = st.lists(st.floats(-3, 3).map(lambda value: round(value, 3)), min_size=2, max_size=6)


@pytest.mark.filterwarnings("ignore:Precision loss")
@given(VALUES, VALUES)
def test_the_interval_is_welchs(a: list[float], b: list[float]) -> None:
    difference, half, p = welch(a, b)
    if len({*a}) == len({*b}) == 1:
        assert half == 0 and p == (a[0] == b[0])
    else:
        assert (difference, half, p) == pytest.approx(welch_twin(a, b), rel=1e-6, abs=1e-9)


def test_its_p_value_is_about_that_of_all_permutations() -> None:
    a, b = [1.0, 1.3, 0.9, 1.1, 1.25, 0.85], [1.35, 1.15, 1.5, 1.25, 1.6, 1.2]
    pooled, observed = a + b, abs(np.mean(b) - np.mean(a))
    splits = list(itertools.combinations(range(12), 6))
    chosen = [np.mean([pooled[i] for i in split]) for split in splits]
    extreme = [abs(2 * mean - 2 * np.mean(pooled)) >= observed - 1e-12 for mean in chosen]
    assert welch(a, b)[2] == pytest.approx(np.mean(extreme), abs=0.01)


def holm_twin(p: list[float], level: float) -> list[bool]:
    """Holm's procedure as he wrote it: step by step, until the first that is not rejected."""
    rejected = [False] * len(p)
    for step, index in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        if p[index] > level / (len(p) - step):
            break
        rejected[index] = True
    return rejected


@given(st.lists(st.integers(0, 100_000).map(lambda n: n / 1e5), max_size=12))
def test_the_correction_rejects_what_holms_steps_do(p: list[float]) -> None:
    # Off the grid of values, so that no rounding decides.
    assert [bool(value <= 0.0333337) for value in holm(p)] == holm_twin(p, 0.0333337)
    assert all(0 <= value <= 1 for value in holm(p))


def test_examples_in_the_module_are_true() -> None:
    assert doctest.testmod(module).failed == 0


def test_the_command_prints_the_same_for_people_and_machines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = run_of(tmp_path, "a", seed=1)
    second = run_of(tmp_path, "b", seed=2, slower={CUT: 1.1})
    assert main([str(first), str(second), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["runs"] == ["a", "b"] and len(document["differing"]) == 2
    assert main([str(first), str(second)]) == 0
    printed = capsys.readouterr().out
    assert "b against a: 4 points measured in both" in printed
    assert "2 of 8 differences are not chance" in printed and CUT in printed
    assert "median half-width of the 95% intervals" in printed and "(aim: 5 %" in printed
    assert main([str(first), str(first)]) == 0
    assert "no difference: none of 8" in capsys.readouterr().out


def test_one_replicate_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = run_of(tmp_path, "a", seed=1)
    second = run_of(tmp_path, "b", seed=2, replicates=1)
    assert main([str(first), str(second)]) == 2
    captured = capsys.readouterr()
    assert "4 of 4 points that both runs measured have fewer than 2 replicates" in captured.err
    assert captured.out == "" and "b: " in captured.err


def test_points_of_one_run_alone_are_counted(tmp_path: Path) -> None:
    first = run_of(tmp_path, "a", seed=1)
    second = run_of(tmp_path, "b", seed=2, splits={"cuts": [CUT]})
    document = compare(read(first), read(second))
    assert len(document["rows"]) == 3 * 2 and document["only_in"] == [1, 0]


def test_runs_without_a_common_point_are_refused(tmp_path: Path) -> None:
    first = run_of(tmp_path, "a", seed=1)
    second = run_of(tmp_path, "b", seed=2, window=5)
    with pytest.raises(CompareError, match="no point was measured in both"):
        compare(read(first), read(second))


@pytest.mark.parametrize(
    ("facts", "what"),
    [
        ({"allocator": {**ALLOCATOR, "MALLOC_MMAP_THRESHOLD_": None}}, "allocator of pi"),
        ({"allocator": ALLOCATOR, "threads": 4}, "threads of pi"),
    ],
)
def test_another_allocator_or_number_of_threads_is_refused(
    tmp_path: Path, facts: dict[str, Any], what: str
) -> None:
    first = run_of(tmp_path, "a", seed=1)
    second = run_of(tmp_path, "b", seed=2, header={"facts": {"threads": 1} | facts})
    with pytest.raises(CompareError, match=what):
        compare(read(first), read(second))


def test_another_profile_under_the_same_name_is_refused(tmp_path: Path) -> None:
    runs = [
        read(run_of(tmp_path, name, seed=1, links=[{"name": "wan", "rate_mbit": rate}]))
        for name, rate in (("a", 20), ("b", 30))
    ]
    with pytest.raises(CompareError, match="link wan"):
        compare(*runs)


def test_weights_and_stretched_hosts_are_refused(tmp_path: Path) -> None:
    run = read(run_of(tmp_path, "a", seed=1))
    hosts = tuple(dataclasses.replace(host, device_emulated=9.0) for host in run.plan.hosts)
    tables = tuple(dataclasses.replace(t, weights_sha256="cd" * 32) for t in run.plan.tables)
    other = dataclasses.replace(
        run, plan=dataclasses.replace(run.plan, run="b", hosts=hosts, tables=tables)
    )
    with pytest.raises(CompareError) as refused:
        compare(run, other)
    text = str(refused.value)
    assert "weights of tiny: abababababab in a, cdcdcdcdcdcd in b" in text
    assert "device_emulated of pi: 3 in a, 9 in b" in text

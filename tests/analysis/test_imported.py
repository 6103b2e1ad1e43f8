"""Measurements of others: read, kept apart from ours, and refused where they are not sound."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis.imported import main
from analysis.importing import kinds, metric_files, time_tables
from analysis.importing.kinds import IDENTITY
from analysis.tables.columns import POINTS

BATCH = {
    "part1_inference_time_s": 0.2,
    "part2_inference_time_s": 0.3,
    "network_time_s": 0.05,
    "end_to_end_latency_s": 1.5,
    "intermediate_data_size_bytes": 401_408.0,
    "network_throughput_mbps": 7.6,
}


def metrics(folder: Path, split: int, *, batch: dict[str, Any] | None = None, **keys: Any) -> Path:
    """A metric file as the paper's tool writes it."""
    written = {
        "model_name": "MobileNetV2",
        "split_index": split,
        "static_network_delay_ms": 0,
        "system_inference_throughput_imgs_per_s": 12.0,
        "average_metrics_per_batch": BATCH | (batch or {}),
    } | keys
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"MobileNetV2_split_{split}_metrics.json"
    file.write_text(json.dumps(written, indent=4))
    return file


def table(folder: Path, name: str, text: str) -> Path:
    """A table of times."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return folder / name


def refused(kind: str, path: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines that say why nothing was imported."""
    assert main([kind, str(path), "-o", str(path.parent / "out")]) == 2
    assert not (path.parent / "out").exists()
    return capsys.readouterr().err.splitlines()


def test_metric_files_become_fronts_with_a_warning_and_names_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split, latency, rate in ((1, 1.0, 8.0), (2, 1.2, 12.0), (3, 1.3, 11.0), (4, 2.0, 13.0)):
        metrics(
            tmp_path / "in",
            split,
            batch={"end_to_end_latency_s": latency},
            system_inference_throughput_imgs_per_s=rate,
        )
    assert main(["metrics", str(tmp_path / "in"), "-o", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    assert "is the difference of two hosts' clocks" in printed.err
    assert "includes what batches wait for each other" in printed.err
    assert printed.out.startswith("metric files of the tool that the paper")
    assert "measured by others: no replicates are known, so no interval is shown" in printed.out
    assert "Take split 2: the knee of the front of latency by two clocks" in printed.out
    points = pd.read_csv(tmp_path / "out" / "imported.csv")
    assert points.loc[points["on_front"], "position"].tolist() == [1, 2, 4]
    assert points["two_clock_latency_mean_ms"].tolist() == [1000, 1200, 1300, 2000]
    svg = (tmp_path / "out" / "figures" / "imported-MobileNetV2.svg").read_text()
    assert "measured by" in svg and "no interval" in svg and "clocks" in svg


@pytest.mark.parametrize("kind", [metric_files.KIND, time_tables.KIND])
def test_no_column_of_others_has_the_name_of_one_of_ours(kind: kinds.Kind) -> None:
    own = {column.name for column in kind.columns}
    assert not own & set(POINTS) and set(kind.objectives) <= own
    assert set(kind.nouns) == set(kind.objectives)
    assert not own & {column.name for column in IDENTITY}


def test_a_rate_of_zero_is_none(tmp_path: Path) -> None:
    metrics(tmp_path / "in", 1)
    metrics(tmp_path / "in", 2, system_inference_throughput_imgs_per_s=0)
    assert main(["metrics", str(tmp_path / "in"), "-o", str(tmp_path / "out")]) == 0
    points = pd.read_csv(tmp_path / "out" / "imported.csv").set_index("position")
    assert pd.isna(points.loc[2, "completions_images_s"]) and not points.loc[2, "on_front"]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (
            {"batch": {"end_to_end_latency_s": -1.0}},
            "end_to_end_latency_s: Input should be greater",
        ),
        ({"batch": {"network_time_s": float("nan")}}, "network_time_s: Input should be a finite"),
        ({"batch": {"network_time_s": "0.5"}}, "network_time_s: Input should be a valid number"),
        ({"system_inference_throughput_imgs_per_s": float("inf")}, "per_s: Input should be a fini"),
        ({"average_metrics_per_batch": {}}, "part2_inference_time_s: Field required"),
        ({"model_name": "VGG16"}, "model_name: must be 'MobileNetV2', as the file's name says"),
        ({"model_name": "a\nb"}, "model_name: String should match pattern"),
        ({"split_index": 8}, "split_index: must be '1', as the file's name says; got '8'"),
    ],
)
def test_what_is_wrong_in_a_metric_file_is_named_with_file_and_key(
    keys: dict[str, Any], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = metrics(tmp_path / "in", 1, **keys)
    lines = refused("metrics", tmp_path / "in", capsys)
    assert all(line.startswith(f"error: {file}: ") for line in lines)
    assert any(said in line for line in lines), lines


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"{", "Invalid JSON"),
        (b"\xff\xfe{", "line 1: byte 0 is no UTF-8 but UTF-16"),
        (b" " * (kinds.MOST_BYTES + 1), f"at most {kinds.MOST_BYTES} are read"),
        (b"[" * 100_000, "Invalid JSON: recursion limit exceeded"),
        (b"[]", "Input should be an object"),
    ],
)
def test_files_that_are_no_such_json_are_one_line(
    raw: bytes, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = metrics(tmp_path / "in", 1)
    file.write_bytes(raw)
    [line] = refused("metrics", file, capsys)
    assert line.startswith(f"error: {file}: ") and said in line


def test_a_key_that_is_given_twice_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = metrics(tmp_path / "in", 1)
    text = file.read_text(encoding="utf-8")
    twice = text.replace('"split_index":', '"split_index": 9, "split_index":')
    assert twice != text
    file.write_text(twice, encoding="utf-8")
    [line] = refused("metrics", file, capsys)
    assert line == f"error: {file}: key 'split_index' is given twice"


def test_a_faulty_file_is_left_out_and_told_while_others_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics(tmp_path / "in", 1)
    bad = metrics(tmp_path / "in", 2, split_index="x")
    assert main(["metrics", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--json"]) == 0
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert document["files"] == [1, 2]
    [fault] = document["faults"]
    assert fault.startswith(f"{bad}: split_index: Input should be a valid integer")
    assert "1 of 2 files have faults and are left out" in printed.err and fault in printed.err
    svg = (tmp_path / "out" / "figures" / "imported-MobileNetV2.svg").read_text()
    assert "1 of 2 files have" in svg


def test_tables_of_times_become_fronts_of_total_and_edge_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = "# seconds\n0.40 0.03 0.20 1\n\n0.11 0.04 0.06 3\n0.25 0.23 0.01 7\n"
    table(tmp_path / "in" / "alexnet", "quick.txt", lines)
    table(tmp_path / "in" / "alexnet", "slow.txt", "0.9 0.1 0.1 1\n")
    assert main(["times", str(tmp_path / "in"), "-o", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "alexnet, quick: 3 splits" in printed and "alexnet, slow: 1 splits" in printed
    points = pd.read_csv(tmp_path / "out" / "imported.csv")
    assert points["on_front"].tolist() == [True, True, False, True]
    assert points.loc[1, ["total_ms", "edge_ms", "cloud_ms"]].tolist() == [110, 40, 60]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("0.4 0.03 0.2", "must be 4 numbers, total edge cloud cut; got 3"),
        ("0.4 nan 0.2 1", "edge: Input should be a finite number; got 'nan'"),
        ("0.4 0.1 -0.2 1", "cloud: Input should be greater than or equal to 0; got '-0.2'"),
        ("0.4 0.1 0.2 1.5", "cut: Input should be a valid integer"),
        ("0.2 0.3 0.1 1", "total: must be at least edge and cloud; got 0.2"),
        ("x 0.3 0.1 1", "total: Input should be a valid number"),
    ],
)
def test_what_is_wrong_in_a_table_is_named_with_file_and_line(
    line: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = table(tmp_path / "in", "net.txt", f"0.4 0.1 0.2 2\n{line}\n")
    [told] = refused("times", tmp_path / "in", capsys)
    assert told.startswith(f"error: {file}:2: ") and said in told


def test_a_split_is_measured_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table(tmp_path / "in", "net.txt", "0.4 0.1 0.2 2\n0.5 0.1 0.2 2\n")
    [told] = refused("times", tmp_path / "in", capsys)
    assert "split 2 of in (net) stands in" in told and "allowed is one measurement" in told


def test_a_model_whose_name_is_too_long_for_a_file_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table(tmp_path / ("m" * 201), "net.txt", "0.4 0.1 0.2 2\n")
    [told] = refused("times", tmp_path / ("m" * 201), capsys)
    assert "model: must have at most 200 bytes; got 'mmm" in told


def test_a_folder_without_such_files_and_that_of_a_run_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    [told] = refused("metrics", tmp_path / "in", capsys)
    assert "with 1 to 10000 files that are named *_split_*_metrics.json; got 0" in told
    (tmp_path / "plan.json").write_text("{}")
    file = metrics(tmp_path / "in", 1)
    assert main(["metrics", str(file), "-o", str(tmp_path)]) == 2
    assert "is the folder of a run" in capsys.readouterr().err


def test_names_that_look_like_formulas_are_drawn_as_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "in" / r"$\frac{1}$"
    table(folder, "$x_{.txt", "0.4 0.1 0.2 1\n0.3 0.2 0.05 2\n")
    assert main(["times", str(folder), "-o", str(tmp_path / "out")]) == 0
    [svg] = (tmp_path / "out" / "figures").glob("*.svg")
    assert r"$\frac{1}$: splits that others measured" in svg.read_text()

"""A table of links, read from what made-up hosts found."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from analysis import links
from analysis.links_columns import LINKS, TRANSFERS
from paretopipe_worker.records.pairs import (
    Datagrams,
    Facts,
    Goodput,
    Pair,
    Place,
    Settings,
    Table,
    Transfer,
)
from tests.helpers.tables_of_links import stored

MS = 1_000_000
NAMES = ("pi", "hub", "gpu")
TABLE = Table(
    hosts=tuple(Place(name, f"10.0.0.{n}", 29400) for n, name in enumerate(NAMES, start=1)),
    rounds=((("hub", "gpu"),), (("pi", "gpu"),), (("pi", "hub"),)),
    settings=Settings(),
    started_unix_ns=0,
)
FACTS = Facts("6.12", "aarch64", "3.11.2", "0.1", {"ipv4.tcp_slow_start_after_idle": "0"})


def pair(source: str, sink: str) -> Pair:
    """A way of 2 ms round trip and 80 Mbit/s, once TCP has found the rate, and 1 % loss."""
    # 1 ms each: slower in the first half, then 10,000 bytes.
    counts = [1_000, *(1_000 + 5_000 * n for n in range(1, 11))]
    counts += [counts[-1] + 10_000 * n for n in range(1, 11)]
    return Pair(
        source=source,
        sink=sink,
        started_unix_ns=1_700_000_000 * 10**9,
        facts=FACTS,
        ping_ns=(3 * MS, 2 * MS, 4 * MS),
        goodput=Goodput(tuple((n * MS, c) for n, c in enumerate(counts)), 151_000, 1_448),
        transfers=(
            Transfer(1000, False, (2 * MS, 4 * MS, 3 * MS), (10, 10, 12)),
            Transfer(1000, True, (5 * MS,), (10,)),
            Transfer(10**8, False, reason="would take about 10.0 s; allowed: 2.5 s"),
        ),
        datagrams=Datagrams(5 * MS, 200, 198, tuple((2 * MS, 3 * MS)[n % 2] for n in range(198))),
    )


WHOLE = [pair(one, two) for one in NAMES for two in NAMES if one != two]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return stored(tmp_path / "links-now", TABLE, WHOLE)


def test_every_ordered_pair_has_a_row_in_the_order_of_the_hosts(folder: Path) -> None:
    found = links.read(folder)
    ways = list(zip(found.links["source"], found.links["sink"], strict=True))
    assert ways == [(one, two) for one in NAMES for two in NAMES if one != two]
    assert list(found.links) == [column.name for column in LINKS]
    assert list(found.transfers) == [column.name for column in TRANSFERS]
    assert len(found.transfers) == 3 * len(found.links)


def test_figures_are_those_of_what_was_measured(folder: Path) -> None:
    found = links.read(folder)
    row = found.links.iloc[0]
    assert row["round_trip_median_ms"] == 2.5
    assert (row["round_trip_p5_ms"], row["round_trip_p95_ms"]) == (2, 3)
    assert row["jitter_ms"] == pytest.approx(1)
    assert row["loss_percent"] == 1
    assert row["ping_median_ms"] == 3
    assert row["goodput_mbit"] == pytest.approx(80)
    assert row["goodput_change_percent"] == pytest.approx(0)
    assert row["started_utc"] == "2023-11-14T22:13:20Z"
    assert (row["kernel"], row["slow_start_after_idle"]) == ("6.12", False)
    assert pd.isna(row["reason"])
    ways = found.transfers.set_index(["source", "sink", "bytes", "idle"]).sort_index()
    sizes = ways.loc["pi", "hub"]
    warm = sizes.loc[1000, False]
    figures = [warm[name] for name in ("least_ms", "median_ms", "most_ms", "window_packets")]
    assert figures == [2, 3, 4, 10]
    assert sizes.loc[(1000, True), "median_ms"] == 5
    assert pd.isna(sizes.loc[(10**8, False), "median_ms"])
    assert sizes.loc[(10**8, False), "messages"] == 0


def test_too_few_datagrams_give_no_percentiles(tmp_path: Path) -> None:
    few = replace(pair("pi", "hub"), datagrams=Datagrams(MS, 200, 130, (2 * MS,) * 129))
    none = replace(pair("hub", "pi"), datagrams=Datagrams(MS, 200, 0, ()))
    found = links.read(stored(tmp_path, TABLE, [few, none])).links.set_index(["source", "sink"])
    row = found.loc["pi", "hub"]
    assert (row["round_trip_median_ms"], row["loss_percent"]) == (2, 35)
    assert pd.isna(row["round_trip_p5_ms"]) and pd.isna(row["round_trip_p95_ms"])
    row = found.loc["hub", "pi"]
    assert row["loss_percent"] == 100 and pd.isna(row["round_trip_median_ms"])
    assert row["reason"] == "datagrams: none came back"


def test_what_is_missing_damaged_or_of_others_has_its_reason(folder: Path) -> None:
    (folder / "pairs/pi/hub.json").unlink()
    (folder / "pairs/pi/gpu.json").write_text('{"source": "pi"')
    said = json.loads((folder / "pairs/hub/pi.json").read_text())
    (folder / "pairs/hub/gpu.json").write_text(json.dumps(said))
    (folder / "pairs/gpu/pi.json").write_text(json.dumps(said | {"ping_ns": ["soon"]}))
    reasons = {"all": "gpu was not reached", "tcp": "not set as in a sweep"}
    stored(folder, TABLE, [Pair("gpu", "hub", reasons=reasons)])
    rows = links.read(folder).links.set_index(["source", "sink"])
    for way, text in {
        ("pi", "hub"): "nothing was left: measuring was broken off",
        ("pi", "gpu"): "Invalid JSON",
        ("hub", "gpu"): "holds hub to pi, schema 1, so it is not used",
        ("gpu", "pi"): "ping_ns.0",
        ("gpu", "hub"): "gpu was not reached; tcp: not set as in a sweep",
    }.items():
        assert text in rows.loc[way, "reason"]
        assert rows.loc[way, ["goodput_mbit", "round_trip_median_ms", "kernel"]].isna().all()
    assert rows.loc[("hub", "pi"), "goodput_mbit"] == pytest.approx(80)


def test_a_table_in_which_nothing_was_measured_names_the_reasons(tmp_path: Path) -> None:
    text = links.text(links.read(stored(tmp_path, TABLE, [])))
    assert text.count(": nothing was left") == 6


def test_a_folder_without_a_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(links.LinksError, match=r"no table of links \(it has no links.json\)"):
        links.read(tmp_path)
    (tmp_path / "links.json").write_text("{}")
    with pytest.raises(links.LinksError, match=r"links.json: hosts: Field required"):
        links.read(tmp_path)
    stored(tmp_path, replace(TABLE, schema=99), [])
    with pytest.raises(links.LinksError, match=r"has schema 99; this version reads 1"):
        links.read(tmp_path)


def test_the_command_prints_and_writes_the_table(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert links.main([str(folder)]) == 0
    printed = capsys.readouterr().out
    heading, line, *_ = printed.splitlines()
    titles = ("from", "to", "round trip ms", "Mbit/s", "1 KB warm ms", "100 MB warm ms")
    assert all(title in heading for title in titles)
    assert line.split() == ["pi", "hub", "2.5", "2", "..", "3", "1", "1", "80", "3", "-", "5", "-"]
    written = pd.read_csv(folder / "links.csv")
    assert written["goodput_mbit"].tolist() == pytest.approx([80] * 6)
    assert len(pd.read_csv(folder / "transfers.csv")) == 18
    assert links.main([str(folder), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert len(document["links"]) == 6 and len(document["transfers"]) == 18
    assert links.main([str(folder / "nowhere")]) == 2
    assert "no table of links" in capsys.readouterr().err

"""PipeEdge's files: written from a run and read again, and what is not allowed in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from analysis import pipeedge as command
from analysis.measures.replicates import replicates
from analysis.prediction.exact import front_of_orders
from analysis.prediction.parts import costs, group_of
from analysis.prediction.pipeedge import MIB, PipeEdgeError, fleets, read
from analysis.run import Run
from analysis.run import read as read_run
from paretopipe_worker.cuts import CutTable, Footprint
from tests.helpers.fake_plan import make, mobilenet_table
from tests.helpers.fake_run import FakeRun

# As PipeEdge's README_Scheduler.md describes them: two kinds of boards.
MODELS: dict[str, Any] = {
    "empty": {"layers": 0, "mem_MB": [], "parameters_in": 0, "parameters_out": []},
    "net": {
        "layers": 3,
        "mem_MB": [10, 20.5, 30],
        "parameters_in": 1000,
        "parameters_out": [500, 2000, 10],
    },
}
KINDS: dict[str, Any] = {
    "slow": {
        "bw_Mbps": 100,
        "mem_MB": 2048,
        "model_profiles": {
            "net": [{"batch_size": 8, "dtype": "torch.float32", "time_s": [0.3, 0.3, 0.3]}]
        },
    },
    "fast": {
        "bw_Mbps": 1000,
        "mem_MB": 8192,
        "model_profiles": {
            "net": [{"batch_size": 8, "dtype": "torch.float32", "time_s": [0.1, 0.1, 0.1]}]
        },
    },
    "unused": {"bw_Mbps": 0, "mem_MB": 0, "model_profiles": None},
}
HOSTS: dict[str, Any] = {"slow": ["mb-0", "mb-1"], "fast": ["rcc-0"], "unused": []}

Change = Callable[[dict[str, Any], dict[str, Any], dict[str, Any]], object]


def written(folder: Path, change: Change = lambda *_: None) -> Path:
    """The three files, with a change."""
    contents = yaml.safe_load(yaml.safe_dump([MODELS, KINDS, HOSTS]))
    change(*contents)
    for name, content in zip(("models", "device_types", "devices"), contents, strict=True):
        (folder / f"{name}.yml").write_text(yaml.safe_dump(content))
    return folder


def with_memory(table: CutTable, mib: float = 1.0) -> CutTable:
    """A table that tells what memory its parts need: each so much."""
    parts = range(len(table.cuts) + 1)
    held = tuple((int(mib * MIB), (part,)) for part in parts)
    return replace(table, footprint=Footprint(held, (0,) * len(parts)))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """MobileNetV2 over a link of 20 Mbit/s."""
    plan = make(with_memory(mobilenet_table()), links=[{"name": "rate20", "rate_mbit": 20}])
    path = tmp_path_factory.mktemp("pipeedge") / "run"
    return read_run(FakeRun(path, plan, items=8, noise=0.0).all_sessions().path)


def test_what_a_run_measured_comes_back(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "analysis.prediction.pipeedge_export._memory_bytes",
        lambda run: {host.name: 2.0**31 for host in run.plan.hosts},
    )
    assert command.main(["export", str(run.path), str(tmp_path)]) == 0
    assert "no delay, no way back" in capsys.readouterr().out
    [(about, fleet)] = list(fleets(read(tmp_path)))
    assert about == {"model": "mobilenet_v2", "batch": 1, "dtype": "float32"}
    made = costs(run, replicates(run), group_of(run.plan.points[0]))
    assert fleet.hosts == made.hosts
    assert fleet.available == (1, 1)
    np.testing.assert_allclose(fleet.busy_ms, made.busy_ms, rtol=1e-12)
    np.testing.assert_array_equal(fleet.forward_bytes, made.forward_bytes)
    assert fleet.hop(0, 1).ms_per_byte == pytest.approx(made.hops[0].ms_per_byte)
    assert fleet.fits is not None
    assert fleet.fits.all()
    assert command.main(["import", str(tmp_path)]) == 0
    assert "predicted front over all orders" in capsys.readouterr().out


def test_a_run_whose_plan_tells_no_memory_is_not_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = make(mobilenet_table(), links=[{"name": "rate20", "rate_mbit": 20}])
    fake = FakeRun(tmp_path / "run", plan, items=8, noise=0.0).all_sessions()
    assert command.main(["export", str(fake.path), str(tmp_path / "files")]) == 2
    assert "does not tell how much memory mobilenet_v2 needs" in capsys.readouterr().err
    assert not (tmp_path / "files").exists()


def test_a_link_that_the_run_has_not_is_refused(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["export", str(run.path), str(tmp_path), "--link", "lte"]) == 2
    assert "--link: one of rate20; got 'lte'" in capsys.readouterr().err


def test_the_front_of_files_is_known_by_hand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """8 images in 0.3 s alone; or two layers on the fast board and one on a slow one: 0.3 s, too.

    One layer on each of three: the slow ones take 0.3 s. So nothing is better than the fast one.
    """
    assert command.main(["import", str(written(tmp_path))]) == 0
    text = capsys.readouterr().out
    assert "net, batch 8, float32" in text
    lines = text.splitlines()
    assert lines[2].split() == ["rcc-0", "1-3", "300.00", "26.67"], text


def test_hosts_share_a_model_that_is_too_large_for_each(tmp_path: Path) -> None:
    """What a stage may hold is less than what its kind has, buffers counted."""

    def change(models: dict[str, Any], kinds: dict[str, Any], hosts: dict[str, Any]) -> None:
        kinds["fast"]["mem_MB"] = 40
        kinds["slow"]["mem_MB"] = 40

    [(_, fleet)] = list(fleets(read(written(tmp_path, change))))
    choices = front_of_orders(fleet, 10**9)
    assert choices
    # The first two layers have 30.5 MB, the last one 30: no host has room for both.
    assert {choice.cuts for choice in choices} <= {(2,), (1, 2)}, choices


def test_files_into_which_nothing_fits_have_no_front(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(models: dict[str, Any], kinds: dict[str, Any], hosts: dict[str, Any]) -> None:
        kinds["fast"]["mem_MB"] = kinds["slow"]["mem_MB"] = 1

    assert command.main(["import", str(written(tmp_path, change))]) == 0
    assert "no split fits into the memory of its hosts" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m, k, h: m["net"].update(layers=2), "models.yml: net.mem_MB: has 3 numbers"),
        (lambda m, k, h: m["net"].update(mem_MB="x"), "models.yml: net.mem_MB: "),
        (lambda m, k, h: m["net"].pop("layers"), "models.yml: net.layers: is required"),
        (lambda m, k, h: m["net"].update(layer=3), "models.yml: net.layer: unknown key"),
        (lambda m, k, h: m.pop("net"), "model_profiles.net: models.yml has no such model"),
        (lambda m, k, h: k["slow"].update(bw_Mbps=0), "slow.bw_Mbps: above 0"),
        (lambda m, k, h: k["slow"].update(mem_MB=float("nan")), "'.nan' is not finite"),
        (
            lambda m, k, h: k["slow"]["model_profiles"]["net"][0].update(time_s=[1]),
            "slow.model_profiles.net[0].time_s: has 1 numbers; the model has 3 layers",
        ),
        (
            lambda m, k, h: k["slow"]["model_profiles"]["net"][0].update(dtype="float"),
            "slow.model_profiles.net[0].dtype: one of torch.float64, ",
        ),
        (lambda m, k, h: h.update(other=["a"]), "other: device_types.yml has no such kind"),
        (lambda m, k, h: h["fast"].append("mb-0"), "'mb-0': is named more than once"),
    ],
)
def test_what_is_not_allowed_is_named_with_file_and_key(
    tmp_path: Path, change: Change, said: str
) -> None:
    with pytest.raises(PipeEdgeError) as refused:
        read(written(tmp_path, change))
    assert said in str(refused.value)
    assert str(tmp_path) in str(refused.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1", "models.yml: while parsing"),
        ("[]", "models.yml: "),
        ("a: &x [1]\nb: *x", "has a YAML alias"),
        ("a: !!python/object/apply:os.getcwd []", "models.yml: could not determine"),
    ],
)
def test_what_is_no_yaml_of_this_kind_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (written(tmp_path) / "models.yml").write_text(text)
    with pytest.raises(PipeEdgeError) as refused:
        read(tmp_path)
    assert said in str(refused.value)


def test_hosts_of_too_many_combinations_are_refused(tmp_path: Path) -> None:
    def change(models: dict[str, Any], kinds: dict[str, Any], hosts: dict[str, Any]) -> None:
        hosts["slow"] = [f"mb-{number}" for number in range(40)]
        hosts["fast"] = [f"rcc-{number}" for number in range(40)]

    with pytest.raises(PipeEdgeError, match="1681 combinations; at most 1024"):
        list(fleets(read(written(tmp_path, change))))

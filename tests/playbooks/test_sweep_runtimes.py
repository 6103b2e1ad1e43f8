"""A sweep whose stages different runtimes execute, some of which cannot execute one model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.labs import throwaway
from tests.helpers.namespaces import reason_without_namespaces
from tests.helpers.sweeps import Checkout

EXPERIMENT = """\
models: [paretopipe_worker.model.tiny:network, "tests.helpers.networks:Odd"]
links: [none]
runtimes: [eager, onnxruntime, {edge: eager, server: onnxruntime}]
strategy: {sample: 1}
phases: {min_items: 6, min_s: 0, retries: 0}
"""


@pytest.fixture
def copy(tmp_path: Path) -> Iterator[Checkout]:
    """A throwaway checkout."""
    with throwaway(tmp_path / "checkout") as made:
        yield made


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.must_run
@pytest.mark.skipif(bool(reason_without_namespaces()), reason=reason_without_namespaces())
def test_points_are_measured_by_each_runtime_and_those_that_cannot_be_are_refused(
    copy: Checkout,
) -> None:
    done = copy.sweep(copy.write("experiments/mixed.yml", EXPERIMENT), "mixed")
    done.refused(
        # All three by ONNX Runtime, and two whose stage on the server is.
        "model tests.helpers.networks:Odd, float32: 5 points are not measured, since it cannot be",
        "ONNX has nothing for the operator prims::bessel_j0.default",
        "5 points failed by themselves",
    )
    points = copy.results("mixed").points
    tiny = points["model"].str.endswith("network")
    assert len(points) == 18 and set(points[tiny]["status"]) == {"ok"}
    for runtimes, rows in points[tiny].groupby("runtimes"):
        exact = rows["output"].eq("exact")
        # Where the source computes all of it, the server's runtime has nothing to do.
        alone = rows["split"].eq("@first") & (runtimes != "onnxruntime")
        assert exact.equals(alone | (runtimes == "eager")), rows[["split", "runtimes", "output"]]
    odd = points[~tiny].groupby("runtimes")["status"].agg(list).map(sorted).to_dict()
    assert odd.pop("eager") == ["ok"] * 3
    assert sorted(odd.values()) == [["failed"] * 2 + ["ok"], ["failed"] * 3]
    for host in ("edge", "server"):
        assert list((copy.root / ".lab" / host / "home/programs").glob("*.stage"))

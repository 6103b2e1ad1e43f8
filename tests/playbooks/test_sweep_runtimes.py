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


@pytest.mark.long
@pytest.mark.alone
@pytest.mark.skipif(bool(reason_without_namespaces()), reason=reason_without_namespaces())
def test_points_are_measured_by_each_runtime_and_those_that_cannot_be_are_refused(
    copy: Checkout,
) -> None:
    done = copy.sweep(copy.write("experiments/mixed.yml", EXPERIMENT), "mixed")
    done.refused(
        # Both endpoints by ONNX Runtime, and the one whose stage on the server is.
        "model tests.helpers.networks:Odd, float32: 3 points are not measured, since it cannot be",
        "ONNX has nothing for the operator prims::bessel_j0.default",
        "3 points failed by themselves",
    )
    points = copy.results("mixed").points
    tiny = points["model"].str.endswith("network")
    assert len(points) == 15 and set(points[tiny]["status"]) == {"ok"}
    found = points[tiny].set_index(["runtimes", "split"])["output"]
    assert set(found["eager"]) == {"exact"} and set(found["onnxruntime"]) == {"close"}
    # Where the source computes all of it, the server's runtime has nothing to do.
    mixed = found["eager>onnxruntime"]
    assert (mixed["@first"], mixed["@last"]) == ("exact", "close")
    odd = points[~tiny].set_index(["runtimes", "split"])["status"]
    assert sorted(odd[odd == "ok"].index) == [
        ("eager", "@first"),
        ("eager", "@last"),
        ("eager>onnxruntime", "@first"),
    ]
    for host in ("edge", "server"):
        assert list((copy.root / ".lab" / host / "home/programs").glob("*.stage"))

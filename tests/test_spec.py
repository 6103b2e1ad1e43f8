"""Specs: what is refused names the key path and what is allowed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from paretopipe_worker import spec

ROOT = Path(__file__).parents[1]


def parse(**keys: Any) -> spec.Experiment:
    """A spec with one model and these keys."""
    return spec.parse({"models": ["resnet18"], **keys})


@pytest.mark.parametrize("path", sorted((ROOT / "experiments").glob("*.yml")), ids=lambda p: p.name)
def test_every_experiment_in_the_tree_is_valid(path: Path) -> None:
    assert spec.load(path).models


def test_short_forms_mean_the_long_ones() -> None:
    short = parse(batch=8, links=["none"], backends="tcp")
    long = parse(batch=[8], links=[{"name": "none"}], backends=["tcp"])
    assert short == long
    assert short.models == (spec.ModelSpec(name="resnet18"),)


@pytest.mark.parametrize(
    ("keys", "path", "allowed"),
    [
        ({"linkz": 1}, "linkz", "did you mean 'links'"),
        ({"links": [{"name": "a", "rate": 5}]}, "links[0].rate", "name, rate_mbit, delay_ms"),
        ({"links": [{"name": "a", "rate_mbit": 0}]}, "links[0].rate_mbit", "greater than 0"),
        ({"links": [{"name": "a", "delay_ms": -1}]}, "links[0].delay_ms", "equal to 0"),
        ({"links": [{"name": "a", "rate_mbit": float("nan")}]}, "links[0].rate_mbit", "less than"),
        ({"links": ["wifi"]}, "links[0]", "needs rate_mbit or delay_ms"),
        ({"links": [{"name": "none", "delay_ms": 1}]}, "links[0]", "takes no parameters"),
        ({"links": ["none", "none"]}, "links", "must not repeat"),
        ({"links": []}, "links", "at least 1 item"),
        ({"backends": "udp"}, "backends[0]", "'tcp' or 'rpc'"),
        ({"batch": "8"}, "batch[0]", "valid integer"),
        ({"batch": True}, "batch[0]", "valid integer"),
        ({"batch": [8, 8]}, "batch", "must not repeat"),
        ({"window": 0}, "window[0]", "greater than or equal to 1"),
        ({"dtype": "float8"}, "dtype[0]", "'float32'"),
        ({"splits": {"granularity": "layer"}}, "splits.granularity", "'block' or 'op'"),
        ({"splits": {"cuts": "some"}}, "splits.cuts", "'all'"),
        ({"splits": {"cuts": []}}, "splits.cuts", "at least 1 item"),
        ({"phases": {"min_items": 5}}, "phases.min_items", "equal to 6"),
        ({"phases": {"min_s": 50, "max_s": 2}}, "phases", "max_s must be at least min_s"),
        ({"placements": [["edge"]]}, "placements[0]", "at least 2 items"),
        ({"placements": [["edge", "edge"]]}, "placements[0]", "must not repeat"),
        ({"models": ["a b"]}, "models[0].name", "pattern"),
        ({"models": [{"name": "x", "input": [3, 0, 1]}]}, "models[0].input[1]", "equal to 1"),
        ({"models": "resnet18"}, "models", "array"),
        ({"replicates": 2.5}, "replicates", "valid integer"),
        ({"seed": -1}, "seed", "equal to 0"),
    ],
    ids=str,
)
def test_a_bad_value_is_refused_with_key_path_and_what_is_allowed(
    keys: dict[str, Any], path: str, allowed: str
) -> None:
    with pytest.raises(spec.SpecError) as refused:
        parse(**keys)
    lines = str(refused.value).splitlines()
    assert all(line.startswith(f"spec: {path}") for line in lines), lines
    assert allowed in str(refused.value)


def test_every_fault_is_named_at_once() -> None:
    with pytest.raises(spec.SpecError) as refused:
        parse(batch=0, seed="x", frames=1)
    assert [line.split(": ")[1] for line in str(refused.value).splitlines()] == [
        "batch[0]",
        "seed",
        "frames",
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("models: [a\n", "not valid YAML"),
        ("models: [a]\nmodels: [b]\n", "key 'models' is given twice"),
        ("- models\n", "must be a mapping"),
        ("", "must be a mapping"),
        ("batch: 1\n", "models: is required"),
        ("models: [!!python/object:os.system x]\n", "not valid YAML"),
    ],
    ids=repr,
)
def test_a_file_that_is_no_spec_is_refused_by_name(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "broken.yml"
    path.write_text(text)
    with pytest.raises(spec.SpecError) as refused:
        spec.load(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert reason in str(refused.value)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(spec.SpecError, match=r"missing\.yml: cannot be read"):
        spec.load(tmp_path / "missing.yml")

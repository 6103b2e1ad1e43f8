"""Specs: what is refused names the key path and what is allowed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from paretopipe_worker.plan import spec
from paretopipe_worker.plan.experiment import Experiment, LoadSpec, ModelSpec
from tests import ROOT

MODEL_IN, IN_LIST = "models[0].inputs.", "models[0].inputs[0]."


def parse(**keys: Any) -> Experiment:
    """A spec with one model and these keys."""
    return spec.parse({"models": ["resnet18"], **keys})


def link(**keys: Any) -> dict[str, Any]:
    """A spec's keys: one link of these."""
    return {"links": [{"name": "mine", **keys}]}


@pytest.mark.parametrize("path", sorted((ROOT / "experiments").glob("*.yml")), ids=lambda p: p.name)
def test_every_experiment_in_the_tree_is_valid(path: Path) -> None:
    assert spec.read(path).models


def test_short_forms_mean_the_long_ones() -> None:
    short = parse(batch=8, links=["none"], backends="tcp")
    long = parse(batch=[8], links=[{"name": "none"}], backends=["tcp"])
    assert short == long
    assert short.models == (ModelSpec(name="resnet18"),)


def test_one_condition_is_the_same_as_one_for_each_direction() -> None:
    both = parse(**link(delay_ms=5, rate_mbit=20))
    each = {"delay_ms": 5.0, "rate_mbit": 20.0}
    assert parse(**link(forward=each, back=each)) == both
    assert parse(**link(hops=[each])) == both
    assert parse(**link(delay_ms=5, rate_mbit=20, direction="back")) == parse(**link(back=each))


def test_faults_of_links_do_not_hide_others() -> None:
    with pytest.raises(spec.SpecError) as refused:
        parse(links=["wfi", {"name": "x", "delay_ms": -1}], seed="x")
    assert [line.split(": ")[1] for line in str(refused.value).splitlines()] == [
        "links[0]",
        "links[1].delay_ms",
        "seed",
    ]


@pytest.mark.parametrize(
    ("keys", "path", "allowed"),
    [
        ({"linkz": 1}, "linkz", "did you mean 'links'"),
        (link(rate=5), "links[0].rate", "did you mean 'rate_mbit'"),
        (link(rate_mbit=0), "links[0].rate_mbit", "a number from 0.001 to 100000"),
        (link(rate_mbit="5"), "links[0].rate_mbit", "a number from"),
        (link(rate_mbit=float("nan")), "links[0].rate_mbit", "got nan"),
        (link(delay_ms=-1), "links[0].delay_ms", "a number from 0 to 10000; got -1"),
        (link(delay_ms=5, jitter_ms=6), "links[0].jitter_ms", "from 0 to delay_ms (5)"),
        (link(loss_percent=120), "links[0].loss_percent", "a number from 0 to 100; got 120"),
        (link(loss_percent=1, burst_loss_percent=1), "links[0]", "both above 0"),
        (link(reorder_percent=1), "links[0]", "needs delay_ms"),
        (link(loss_percent=100), "links[0].loss_percent", "allowed: a mean of at most 90 %"),
        (link(back={"loss_percent": 99}), "links[0].back.loss_percent", "loses 99 % of all"),
        (
            link(burst_loss_percent=100, burst_recovery_percent=0.001),
            "links[0].burst_loss_percent",
            "loses 100 % of all packets",
        ),
        (
            link(hops=[{"forward": {"loss_percent": 100}}]),
            "links[0].hops[0].forward.loss_percent",
            "nothing can be measured",
        ),
        (
            link(delay_ms=1, **{"return": {"loss_percent": 100}}),
            "links[0].return.loss_percent",
            "in a trace, segments in which nothing passes",
        ),
        (link(delay_ms=1, distribution="flat"), "links[0].distribution", "one of uniform"),
        (link(forward={"delay_ms": -1}), "links[0].forward.delay_ms", "got -1"),
        (link(back={"jitter_ms": 2}), "links[0].back.jitter_ms", "from 0 to delay_ms (0)"),
        (link(forward=5), "links[0].forward", "a mapping of delay_ms"),
        (link(forwards={"delay_ms": 1}), "links[0].forwards", "did you mean 'forward'"),
        (link(delay_ms=1, direction="up"), "links[0].direction", "one of both, forward, back"),
        (link(delay_ms=1, forward={}), "links[0]", "delay_ms excludes forward"),
        (link(delay_ms=1, hops=[{"delay_ms": 1}]), "links[0]", "hops excludes delay_ms"),
        (link(hops=[]), "links[0].hops", "at least one hop"),
        (link(hops={"delay_ms": 1}), "links[0].hops", "a list"),
        (
            link(hops=[{"delay_ms": 1}, {"back": {"loss_percent": 101}}]),
            "links[0].hops[1].back.loss_percent",
            "got 101",
        ),
        (link(hops=[{"name": "x"}]), "links[0].hops[0].name", "unknown key"),
        (link(delay_ms=1, **{"return": {"delay_ms": -1}}), "links[0].return.delay_ms", "got -1"),
        (link(forward={}), "links[0]", "only 'none' is unshaped"),
        ({"links": ["wfi"]}, "links[0]", "did you mean 'wifi'"),
        ({"links": [{"name": "mine"}]}, "links[0]", "presets: lan, wifi, lte"),
        ({"links": [{"name": "wifi", "delay_ms": 1}]}, "links[0].name", "is a preset"),
        ({"links": [{"name": "none", "delay_ms": 1}]}, "links[0]", "takes no parameters"),
        ({"links": [{"delay_ms": 1}]}, "links[0].name", "is required"),
        ({"links": [{"name": "a b", "delay_ms": 1}]}, "links[0].name", "pattern"),
        ({"links": [7]}, "links[0]", "a name, or a mapping of name, delay_ms"),
        ({"links": "wifi"}, "links", "array"),
        ({"tcp": {"congestion": "bbr"}}, "tcp.congestion", "did you mean 'congestion_control'"),
        ({"tcp": {"congestion_control": "a b"}}, "tcp.congestion_control", "such as cubic"),
        ({"tcp": {"slow_start_after_idle": 1}}, "tcp.slow_start_after_idle", "boolean"),
        ({"tcp": {"max_buffer_bytes": 1}}, "tcp.max_buffer_bytes", "from 4096 to 2**30"),
        ({"links": ["none", "none"]}, "links", "must not repeat"),
        ({"links": []}, "links", "at least 1 item"),
        ({"backends": "udp"}, "backends[0]", "'tcp', 'rpc', 'gloo'"),
        ({"batch": "8"}, "batch[0]", "valid integer"),
        ({"batch": True}, "batch[0]", "valid integer"),
        ({"batch": [8, 8]}, "batch", "must not repeat"),
        ({"window": 0}, "window[0]", "a whole number from 1 to 64, or 'auto'; got 0"),
        ({"window": 65}, "window[0]", "a whole number from 1 to 64, or 'auto'; got 65"),
        ({"window": True}, "window[0]", "a whole number from 1 to 64"),
        ({"window": "full"}, "window[0]", "'auto'"),
        ({"window": ["auto", "auto"]}, "window", "must not repeat"),
        ({"dtype": "float8"}, "dtype[0]", "'float32'"),
        ({"splits": {"granularity": "layer"}}, "splits.granularity", "'block' or 'op'"),
        ({"splits": {"cuts": "some"}}, "splits.cuts", "'all'"),
        ({"splits": {"cuts": ["x", 5]}}, "splits.cuts[1]", "the name of a cut, or a list of the"),
        ({"splits": {"cuts": [["x", 5]]}}, "splits.cuts[0][1]", "valid string"),
        ({"splits": {"cuts": [["x"], ["x"]]}}, "splits.cuts", "must not repeat"),
        ({"splits": {"cuts": [[]]}}, "splits.cuts[0]", "at least 1 item"),
        ({"splits": {"max_tensors": 0}}, "splits.max_tensors", "equal to 1"),
        ({"strategy": "guided"}, "strategy", "must be 'all', or a mapping such as {sample: 20}"),
        ({"strategy": {"sample": 5, "x": 1}}, "strategy.x", "unknown key; allowed: sample"),
        ({"strategy": {"sample": 0}}, "strategy.sample", "equal to 1; got 0"),
        ({"strategy": {"sample": "5"}}, "strategy.sample", "valid integer"),
        ({"strategy": {}}, "strategy.sample", "is required"),
        ({"profile": True}, "profile", "must be false, or a mapping such as {items: 10}"),
        ({"profile": {"items": 3}}, "profile.items", "equal to 4; got 3"),
        ({"profile": {"rounds": 3}}, "profile.rounds", "unknown key; allowed: items"),
        ({"limit": {"points": 0}}, "limit.points", "equal to 1"),
        ({"limit": {"hour": 5}}, "limit.hour", "did you mean 'hours'"),
        ({"splits": {"cuts": {"name": "x"}}}, "splits.cuts", "'all' or a list of names of cuts"),
        ({"splits": {"cuts": ["x", "x"]}}, "splits.cuts", "must not repeat"),
        ({"splits": {"cuts": []}}, "splits.cuts", "at least 1 item"),
        ({"phases": {"min_items": 5}}, "phases.min_items", "equal to 6"),
        ({"phases": {"min_s": 50, "max_s": 2}}, "phases", "max_s must be at least min_s"),
        ({"phases": {"retries": -1}}, "phases.retries", "equal to 0"),
        ({"phases": {"warmup": 1}}, "phases.warmup", "did you mean 'warmup_s'"),
        ({"phases": {"load": {"shares": []}}}, "phases.load.shares", "at least 1 item"),
        ({"phases": {"load": {"shares": [0]}}}, "phases.load.shares[0]", "greater than 0"),
        ({"phases": {"load": {"shares": [0.5, 0.2]}}}, "phases.load.shares", "must grow"),
        ({"phases": {"load": {"rate": 1}}}, "phases.load.rate", "shares, min_items, min_s"),
        ({"placements": [["edge"]]}, "placements[0]", "at least 2 items"),
        ({"placements": [["edge", "edge"]]}, "placements[0]", "must not repeat"),
        ({"placements": [["edge", 5]]}, "placements[0][1]", "valid string"),
        ({"placements": [["a", "b"]] * 2}, "placements", "must not repeat"),
        ({"placements": "edge"}, "placements", "must be 'all', 'pairs' or a list"),
        ({"models": ["a b"]}, "models[0].name", "pattern"),
        ({"models": [{"name": "x", "input": [3, 0, 1]}]}, "models[0].input[1]", "equal to 1"),
        ({"models": ["timm/"]}, "models[0].name", "pattern"),
        ({"models": [{"name": "resnet18", "path": "x.py"}]}, "models[0].path", "a .pt2 file"),
        (
            {"models": [{"name": "x", "inputs": {"images": "p", "count": 1}}]},
            MODEL_IN + "count",
            "2",
        ),
        ({"models": [{"name": "x", "inputs": {"image": "p"}}]}, MODEL_IN + "image", "'images'"),
        ({"models": [{"name": "x", "inputs": {"count": 3}}]}, MODEL_IN + "images", "is required"),
        ({"models": [{"name": "x", "inputs": 3}]}, "models[0].inputs", "names a folder of images"),
        ({"models": [{"name": "x", "inputs": [{"shape": [3], "hi": 5}]}]}, IN_LIST + "hi", "high"),
        (
            {"models": [{"name": "x", "requirements": ["--index-url=http://x"]}]},
            "models[0].requirements[0]",
            "pattern",
        ),
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


def test_load_and_windows_may_be_written_short() -> None:
    assert parse().phases.load is None
    assert parse(phases={"load": {}}).phases.load == LoadSpec()
    assert parse(window="auto").window == ("auto",)
    assert parse(window=[3, "auto"]).window == (3, "auto")


def test_a_trace_is_read_from_the_specs_folder_and_refused_with_its_line(tmp_path: Path) -> None:
    path, trace = tmp_path / "x.yml", tmp_path / "traces" / "drive.csv"
    path.write_text("models: [resnet18]\nlinks: [none, {name: d, trace: traces/drive.csv}]\n")
    trace.parent.mkdir()
    trace.write_text("time_s,delay_ms\n0,5\n10,20\n")
    assert spec.read(path).links[1].segments[1].forward_path(2)[0].delay_ms == 20
    trace.write_text("time_s,delay_ms\n0,5\n10,20\n8,5\n")
    with pytest.raises(spec.SpecError) as refused:
        spec.read(path)
    assert str(refused.value) == (
        f"{path}: links[1].trace: traces/drive.csv:4: time_s: at least 0.1 s after the one before "
        "(10), at most 86400; got 8"
    )


def test_paths_of_weights_and_traces_follow_one_rule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, folder = tmp_path / "home", tmp_path / "lab"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path)
    paths = {"kept/x": folder / "kept/x", "~/x": home / "x", "../x": tmp_path / "x"}
    for written, leads in [*paths.items(), (str(tmp_path / "a/x"), tmp_path / "a/x")]:
        leads.parent.mkdir(parents=True, exist_ok=True)
        leads.write_text("time_s,delay_ms\n0,5\n10,20\n")
        text = f"models: [{{name: a, weights: {written}}}]\nlinks: [{{name: d, trace: {written}}}]"
        (folder / "x.yml").write_text(text)
        # The same from wherever it is read.
        for path in (folder / "x.yml", Path("lab/x.yml")):
            read = spec.read(path)
            assert read.models[0].weights == str(leads)
            assert read.links[0].timetable is not None


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
        spec.read(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert reason in str(refused.value)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(spec.SpecError, match=r"missing\.yml: cannot be read"):
        spec.read(tmp_path / "missing.yml")


LONG = "x" * 10_000


@pytest.mark.parametrize(
    "keys",
    [
        {"models": [LONG]},
        {"models": [{"name": LONG + "!"}]},
        {"models": ["resnet18"], LONG: 1},
        {"models": ["resnet18"], "links": [LONG]},
        {"models": ["resnet18"], "links": [{"name": LONG, "delay_ms": 1}]},
        {"models": ["resnet18"], "links": [{"name": "x", LONG: 1}]},
        {"models": ["resnet18"], "links": [{"name": "x", "delay_ms": LONG}]},
        {"models": ["resnet18"], "links": [{"name": "x", "distribution": LONG}]},
        {"models": ["resnet18"], "links": [{"name": "x", "hops": LONG}]},
        {"models": ["resnet18"], "links": [{"name": "x", "delay_ms": 1, "direction": [LONG] * 9}]},
        {"models": ["resnet18"], "links": [{"name": "x", "trace": LONG}]},
        {"models": ["resnet18"], "links": [{"name": "x", "trace": f"time_s,{LONG}\n0,1\n"}]},
        {"models": ["resnet18"], "links": [{"name": "x", "trace": f"time_s,delay_ms\n0,{LONG}\n"}]},
        {"models": ["resnet18"], "tcp": {"congestion_control": LONG}},
        {"models": ["resnet18"], "backends": LONG},
        {"models": ["resnet18"], "placements": [[LONG, "b"]]},
    ],
    ids=range(16),
)
def test_an_error_does_not_repeat_what_is_long(keys: dict[str, Any]) -> None:
    with pytest.raises(spec.SpecError) as refused:
        spec.parse(keys)
    assert len(str(refused.value)) < 500, len(str(refused.value))


def test_a_number_that_python_does_not_read_is_refused_by_file(tmp_path: Path) -> None:
    path = tmp_path / "long.yml"
    path.write_text(f"models: [resnet18]\nseed: {'9' * 5000}\n")
    with pytest.raises(spec.SpecError) as refused:
        spec.read(path)
    assert str(refused.value).startswith(f"{path}: is not valid YAML: ")


def test_paths_of_models_begin_at_the_spec_and_names_of_weights_stay(tmp_path: Path) -> None:
    models = [
        "nets/small.pt2",
        {"name": "a", "weights": "trained.pt", "inputs": {"images": "photos"}},
        {"name": "b", "weights": "IMAGENET1K_V1"},
    ]
    file, checkpoint, published = spec.parse({"models": models}, "spec", tmp_path).models
    assert (file.name, file.path) == ("small", str(tmp_path / "nets/small.pt2"))
    assert checkpoint.checkpoint == checkpoint.weights == str(tmp_path / "trained.pt")
    assert checkpoint.images and checkpoint.images.images == str(tmp_path / "photos")
    assert (published.weights, published.checkpoint) == ("IMAGENET1K_V1", None)
    assert [each.in_files for each in (file, checkpoint, published)] == [True] * 3

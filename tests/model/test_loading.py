"""A host loads a model: all tensors come from the file, and all is checked against the plan."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from paretopipe_worker.__main__ import main
from paretopipe_worker.cuts import FIRST, LAST, TensorSpec
from paretopipe_worker.model import loading, weights, zoo
from paretopipe_worker.model.partition import check_split, find_cuts, split, whole
from paretopipe_worker.model.weights import WeightsError
from paretopipe_worker.plan.spec import SpecError
from paretopipe_worker.session import join
from paretopipe_worker.session.join import StageError
from tests.helpers import travellers
from tests.helpers.sessions import Lab, lab

pytestmark = pytest.mark.slow

TINY = "paretopipe_worker.model.tiny:network"
FLEET = json.dumps(
    [{"name": f"host{n}", "data_address": f"10.0.0.{n}", "data_port": 29500} for n in (1, 2)]
)
SCATTERED = "tests.helpers.travellers:Scattered"
FOUR = TensorSpec((2, 4), "float32")


def families() -> list[str]:
    """The classifier of each of torchvision's modules that computes least, and a second Swin."""
    vision = zoo._torchvision_models()
    found: dict[str, tuple[float, str]] = {}
    for name in zoo.classifiers():
        operations = min(each.meta["_ops"] for each in vision.get_model_weights(name))
        family = vision.get_model_builder(name).__module__
        found[family] = min((operations, name), found.get(family, (operations, name)))
    return [*(name for _, name in found.values()), "swin_v2_t"]


@pytest.mark.parametrize("name", families())
def test_every_family_of_classifiers_loads_as_a_host_loads_it(name: str, tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    model = zoo.skeleton(name, seed=0)
    # Nothing is drawn, which takes most of the time: which values are loaded does not matter.
    held = weights.tensors(model).items()
    same = {key: torch.full(t.shape, 0.01) for key, t in held if t.is_meta}
    weights.place(model, same, file)
    taken = TensorSpec((1, *zoo.default_input(name)), "float32")
    loading.capture_all(model, [taken], seed=0)
    weights.save_weights(model, file)
    loaded = loading.load(name, file, [taken], seed=1)
    assert loaded.weights_sha256 == weights.weights_sha256(model)
    captured, inputs = loaded.captures[taken], [zoo.example_input(taken, seed=1, index=0)]
    references = [whole(loaded.model, tensor) for tensor in inputs]
    assert 0 < references[0][0].abs().max() < float("inf")
    cuts = find_cuts(captured, "block")
    middle = cuts[len(cuts) // 2].name
    assert check_split(split(captured, [middle]), inputs, references).exact


def stored(name: str, folder: Path, taken: TensorSpec) -> tuple[nn.Module, Path]:
    """A model as the controller makes it, and its file."""
    model, file = zoo.build(name, seed=1), folder / "weights.safetensors"
    loading.capture_all(model, [taken], seed=1)
    weights.save_weights(model, file)
    return model, file


@pytest.mark.parametrize("name", ["Scattered", "Tied"])
def test_every_tensor_that_a_model_computes_with_travels(name: str, tmp_path: Path) -> None:
    named = f"tests.helpers.travellers:{name}"
    taken = TensorSpec((2, *zoo.default_input(named)), "float32")
    model, file = stored(named, tmp_path, taken)
    sha256 = weights.weights_sha256(model)
    tensor = zoo.example_input(taken, seed=1, index=0)
    [output] = whole(model, tensor)
    loaded = loading.load(named, file, [taken], seed=1)
    assert loaded.weights_sha256 == sha256
    assert torch.equal(whole(loaded.model, tensor)[0], output)
    cuts = [cut.name for cut in find_cuts(loaded.captures[taken], "op")]
    for cut in (FIRST, *cuts, LAST):
        stages = split(loaded.captures[taken], [cut])
        assert check_split(stages, [tensor], [(output,)]).exact, cut


@pytest.mark.parametrize(
    "path",
    ["left_out", "plain", "wide", "phases", "inner.offset", "listed", "GLOBAL"],
)
def test_the_checksum_covers_what_no_state_dict_has(path: str, tmp_path: Path) -> None:
    model, _ = stored(SCATTERED, tmp_path, FOUR)
    before = weights.weights_sha256(model)
    held = travellers.GLOBAL if path == "GLOBAL" else model
    for part in path.split(".") if path != "GLOBAL" else []:
        held = getattr(held, part)
    tensor = held[0] if isinstance(held, list) else held
    assert isinstance(tensor, torch.Tensor)
    tensor[:1] += 1
    assert weights.weights_sha256(model) != before


def test_what_is_in_the_file_alone_or_in_the_model_alone_is_named(tmp_path: Path) -> None:
    model, file = stored(SCATTERED, tmp_path, FOUR)
    model.more = torch.ones(2)
    del model.left_out
    weights.save_weights(model, file)
    with pytest.raises(WeightsError) as refused:
        loading.load(SCATTERED, file, [FOUR], seed=1)
    assert f"{file}: model 'tests.helpers.travellers:Scattered' as built here" in str(refused.value)
    assert "1 not in the file: left_out; 1 not in the model: more" in str(refused.value)
    model.plain = torch.ones(5)
    weights.save_weights(model, file)
    with pytest.raises(WeightsError, match=r"plain \(\(5,\) torch.float32 for \(4,\)"):
        loading.load(SCATTERED, file, [FOUR], seed=1)


def test_a_tensor_that_each_run_makes_anew_and_otherwise_is_refused(tmp_path: Path) -> None:
    _, file = stored("tests.helpers.travellers:Remade", tmp_path, FOUR)
    with pytest.raises(
        WeightsError, match=r"makes a tensor of shape \(4,\) as it runs, and its values here"
    ):
        loading.load("tests.helpers.travellers:Remade", file, [FOUR], seed=1)


def test_what_is_no_tensor_or_no_plain_one_is_refused_by_name(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    model.adjacency = torch.eye(2).to_sparse()
    with pytest.raises(
        WeightsError, match=r"'adjacency' \(torch.float32, torch.sparse_coo, on cpu"
    ):
        weights.save_weights(model, tmp_path / "sparse.safetensors")
    model.adjacency = torch.ones(2, dtype=torch.complex128)
    with pytest.raises(WeightsError, match=r"cannot store tensors of torch\.complex128"):
        weights.save_weights(model, tmp_path / "wide.safetensors")
    assert list(tmp_path.iterdir()) == []
    packed = nn.Sequential(travellers.Packed())
    with pytest.raises(WeightsError, match=r"1 no tensor of its modules: 0\._extra_state"):
        weights.weights_sha256(packed)


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """A run of a model whose tensors are everywhere, at two batch sizes."""
    return lab(tmp_path_factory.mktemp("lab"), {"models": [SCATTERED], "batch": [1, 2]})


def test_a_host_says_what_it_loaded_and_not_what_it_was_to_load(planned: Lab) -> None:
    [session] = planned.plan.sessions
    loaded = join.load(planned.plan, session, planned.cache / "weights")
    [sha256] = {table.weights_sha256 for table in planned.plan.tables}
    assert loaded.weights_sha256 == weights.weights_sha256(loaded.model) == sha256
    agreement = join.agreed(planned.plan, session, loaded.weights_sha256)
    assert agreement.weights == sha256


def test_other_weights_under_the_plans_name_are_refused_with_both_checksums(
    planned: Lab, tmp_path: Path
) -> None:
    [session] = planned.plan.sessions
    [sha256] = {table.weights_sha256 for table in planned.plan.tables}
    good = planned.cache / "weights" / f"{sha256}.safetensors"
    damaged = tmp_path / good.name
    content = bytearray(good.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(StageError) as refused:
        join.load(planned.plan, session, tmp_path)
    assert str(damaged) in str(refused.value)
    [found, wanted] = re.findall(r"\b[0-9a-f]{64}\b", str(refused.value).partition(": ")[2])
    assert (found != sha256, wanted) == (True, sha256)


def test_a_model_that_is_another_one_on_a_host_is_refused(
    planned: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    [session] = planned.plan.sessions
    original = travellers.Scattered

    def edited() -> nn.Module:
        model = original()
        model.inner = nn.LeakyReLU(0.02)
        model.inner.offset = travellers.drawn(4)
        return model

    monkeypatch.setattr(travellers, "Scattered", edited)
    monkeypatch.setattr(edited, "input_shape", (4,), raising=False)
    with pytest.raises(StageError, match="at batch 1 is another model here than on the controller"):
        join.load(planned.plan, session, planned.cache / "weights")


def test_a_checkpoint_is_known_by_its_content_wherever_it_lies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def plan(folder: Path) -> tuple[int, str, str]:
        (folder / "x.yml").write_text(f"models: [{{name: '{TINY}', weights: trained.pt}}]\n")
        results = ("--results", str(tmp_path / "run"), "--cache", str(tmp_path / "cache"))
        given = ("--experiment", str(folder / "x.yml"), "--fleet", FLEET, "--run", "run")
        status = main(["prepare", *given, *results])
        return (status, *capsys.readouterr())

    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    state = zoo.build(TINY, seed=1).half().state_dict()
    torch.save({f"module.{name}": tensor for name, tensor in state.items()}, before / "trained.pt")
    status, said, _ = plan(before)
    assert status == 0
    assert f"{before}/trained.pt: prefix 'module.' removed from the names of its 11 tensors" in said
    assert f"{before}/trained.pt: 10 tensors converted from float16 to the model's float32" in said
    before.rename(after)
    assert plan(after)[0] == 0
    state["7.bias"] += 1
    torch.save(state, after / "trained.pt")
    status, _, refused = plan(after)
    assert status == 2
    assert "run 'run' was planned with other weights" in refused


def test_what_a_model_keeps_of_its_first_run_is_not_taken_for_part_of_it(tmp_path: Path) -> None:
    made = lab(tmp_path, {"models": ["tests.helpers.travellers:Cached"], "batch": [1, 2]})
    [session] = made.plan.sessions
    assert join.load(made.plan, session, made.cache / "weights")


def test_prepare_refuses_a_factory_that_draws_numbers(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"models\[0\]: .*:Scaled': its factory builds another"):
        lab(tmp_path, {"models": ["tests.helpers.travellers:Scaled"]})

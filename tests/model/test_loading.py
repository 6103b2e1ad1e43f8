"""A host loads programs and tensors: all comes from files, and all is checked against the plan."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from paretopipe_worker.__main__ import main
from paretopipe_worker.cuts import FIRST, LAST, TensorSpec
from paretopipe_worker.model import loading, weights, zoo
from paretopipe_worker.model import program as programs
from paretopipe_worker.model.capture import Captured, capture
from paretopipe_worker.model.inputs import example_input
from paretopipe_worker.model.partition import Partitioned, largest_error, split, whole
from paretopipe_worker.model.program import PartitionError
from paretopipe_worker.model.sources import default_input
from paretopipe_worker.model.weights import WeightsError
from paretopipe_worker.plan.plan import program_files, references_name
from paretopipe_worker.session import join
from paretopipe_worker.session.join import StageError
from tests.helpers import travellers
from tests.helpers.models import checked, place_names, programmed
from tests.helpers.sessions import Lab, lab

pytestmark = pytest.mark.slow

TINY = "paretopipe_worker.model.tiny:network"
FLEET = json.dumps(
    [{"name": f"host{n}", "data_address": f"10.0.0.{n}", "data_port": 29500} for n in (1, 2)]
)
SCATTERED = "tests.helpers.travellers:Scattered"
FOUR = TensorSpec((2, 4), "float32")


def carried(captured: Captured | Partitioned, folder: Path) -> Partitioned:
    """What a host has of a program: it is written, and read again from its files."""
    sha256 = programs.sha256(captured.program)
    loading.save_program(captured.program, folder / "program.json")
    weights.save_weights(captured.tensors, folder / "tensors.safetensors")
    program = loading.load_program(folder / "program.json", sha256)
    tensors = loading.load_tensors(folder / "tensors.safetensors", [program])
    return loading.partitioned(program, tensors)


@pytest.mark.parametrize("name", ["Scattered", "Tied", "Tabled"])
def test_every_tensor_that_a_model_computes_with_travels(name: str, tmp_path: Path) -> None:
    named = f"tests.helpers.travellers:{name}"
    taken = TensorSpec((2, *default_input(named)), "float32")
    model = zoo.build(named, seed=1)
    inputs = [example_input(taken, seed=1, index=index) for index in (0, 1)]
    wanted = [[each.clone() for each in whole(model, tensor)] for tensor in inputs]
    loaded = carried(programmed(model, *inputs), tmp_path)
    # Nothing that the host computes with may come from the model that the controller has.
    for memory in memory_of(model):
        memory.fill_(0)  # type: ignore[attr-defined]  # torch has it, its stubs do not
    references = [loaded.whole(tensor) for tensor in inputs]
    for outputs, own in zip(references, wanted, strict=True):
        # Kernels round by where in memory a tensor begins, which the file decides for all hosts.
        assert largest_error(outputs, tuple(own)) < 1e-6
    for cut in (FIRST, *place_names(loaded), LAST):
        assert checked(split(loaded, [cut]), inputs, references).exact, cut


def memory_of(model: nn.Module) -> list[torch.UntypedStorage]:
    """The memory of all tensors that a model has, wherever its modules keep them."""
    held: list[object] = [travellers.GLOBAL]
    for part in model.modules():
        held += [*vars(part).values(), *part._parameters.values(), *part._buffers.values()]
    held += [each for part in held if isinstance(part, list) for each in part]
    return [tensor.untyped_storage() for tensor in held if isinstance(tensor, torch.Tensor)]


@pytest.mark.parametrize(
    "path", ["left_out", "plain", "wide", "phases", "inner.offset", "listed", "GLOBAL"]
)
def test_the_checksum_covers_what_no_state_dict_has(path: str) -> None:
    model, example = zoo.build(SCATTERED, seed=1), torch.ones(2, 4)
    before = programs.sha256(capture(model, [example]).program)
    held = travellers.GLOBAL if path == "GLOBAL" else model
    for part in path.split(".") if path != "GLOBAL" else []:
        held = getattr(held, part)
    tensor = held[0] if isinstance(held, list) else held
    assert isinstance(tensor, torch.Tensor)
    tensor[:1] += 1
    assert programs.sha256(capture(model, [example]).program) != before


def test_a_tensor_that_the_file_lacks_or_that_is_another_one_is_refused_by_name(
    tmp_path: Path,
) -> None:
    captured = capture(zoo.build(SCATTERED, seed=1), [torch.ones(2, 4)])
    file = tmp_path / "tensors.safetensors"
    without = {name: tensor for name, tensor in captured.tensors.items() if name != "left_out"}
    weights.save_weights(without, file)
    with pytest.raises(WeightsError, match=f"^{file}: has no tensor 'left_out', which the"):
        loading.load_tensors(file, [captured.program])
    for other in (captured.tensors["kept"] + 1e-7, torch.ones(5), torch.ones(4).double()):
        weights.save_weights({**captured.tensors, "kept": other}, file)
        with pytest.raises(WeightsError, match=f"^{file}: tensor 'kept' has other values than"):
            loading.load_tensors(file, [captured.program])
    weights.save_weights({**captured.tensors, "more": torch.ones(1)}, file)
    tensors = loading.load_tensors(file, [captured.program])
    assert loading.partitioned(captured.program, tensors).tensors.keys() == captured.tensors.keys()


def test_a_changed_bit_of_the_tensors_is_refused_with_the_name_of_its_tensor(
    tmp_path: Path,
) -> None:
    captured = capture(zoo.build(SCATTERED, seed=1), [torch.ones(2, 4)])
    file = tmp_path / "tensors.safetensors"
    weights.save_weights(captured.tensors, file)
    content = file.read_bytes()
    begin = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:begin])
    for name in captured.tensors:
        first, last = header[name]["data_offsets"]
        for place in (first, last - 1):
            changed = bytearray(content)
            changed[begin + place] ^= 1
            file.write_bytes(changed)
            with pytest.raises(WeightsError, match=f"tensor '{re.escape(name)}' has other values"):
                loading.load_tensors(file, [captured.program])


def test_a_table_that_each_run_draws_anew_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^models\[0\]: .*Remade'") as refused:
        lab(tmp_path, {"models": ["tests.helpers.travellers:Remade"]})
    assert re.search(r"draws|random|Generator", str(refused.value)), refused.value


def test_what_is_no_plain_tensor_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(
        WeightsError, match=r"'adjacency' \(torch.float32, torch.sparse_coo, on cpu"
    ):
        weights.save_weights({"adjacency": torch.eye(2).to_sparse()}, tmp_path / "sparse")
    with pytest.raises(WeightsError, match=r"cannot store tensors of torch\.complex128"):
        wide = {"wide": torch.ones(2, dtype=torch.complex128)}
        weights.save_weights(wide, tmp_path / "wide")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(WeightsError, match=r"1 no tensor of its modules: 0\._extra_state"):
        weights.tensors(nn.Sequential(travellers.Packed()))


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """A run of a model whose tensors are everywhere, at two batch sizes."""
    return lab(tmp_path_factory.mktemp("lab"), {"models": [SCATTERED], "batch": [1, 2]})


def test_programs_of_two_batch_sizes_share_one_file_of_tensors(planned: Lab) -> None:
    [session], folder = planned.plan.sessions, planned.cache / "programs"
    models = join.load(planned.plan, session, folder)
    assert models.keys() == {(1, "float32"), (2, "float32")}
    tables = planned.plan.tables
    files = {path for table in tables for path in program_files(table, folder)}
    assert sorted(path.suffix for path in files) == [".json", ".json", ".safetensors"]
    references = {folder / references_name(table) for table in tables}
    assert files | references == {*folder.iterdir()}
    for table in tables:
        of = models[table.batch, table.dtype]
        assert programs.sha256(of.program) == table.graph_sha256
        assert of.specs([value.name for value in of.program.inputs]) == table.crossing(LAST)
        [result] = of.whole(torch.ones(table.inputs[0].shape))
        assert result.shape == table.output[0].shape


def test_constants_of_one_batch_size_do_not_reach_the_other(tmp_path: Path) -> None:
    made = lab(tmp_path, {"models": ["tests.helpers.travellers:Numbered"], "batch": [1, 3]})
    [session] = made.plan.sessions
    models = join.load(made.plan, session, made.cache / "programs")
    for batch in (1, 3):
        given = torch.ones(batch, 4)
        wanted = whole(travellers.Numbered(), given)
        of = models[batch, "float32"]
        assert all(map(torch.equal, of.whole(given), wanted))
        assert [held.layout.shape for held in of.program.tensors.values()] == [(batch,)]


@pytest.mark.parametrize("which", [0, 1], ids=["program", "tensors"])
def test_a_file_that_is_not_on_a_host_or_not_the_plans_is_refused(
    planned: Lab, tmp_path: Path, which: int
) -> None:
    [session], folder = planned.plan.sessions, planned.cache / "programs"
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    file = program_files(planned.plan.tables[1], tmp_path)[which]
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises((PartitionError, WeightsError), match=f"^{file}: .*delete the file") as no:
        join.load(planned.plan, session, tmp_path)
    assert len(str(no.value).splitlines()) == 1
    file.unlink()
    with pytest.raises(StageError, match=f"^{file}: is not on this host; run the sweep again$"):
        join.load(planned.plan, session, tmp_path)


def test_a_program_with_another_models_tensors_is_refused(planned: Lab, tmp_path: Path) -> None:
    [session], folder = planned.plan.sessions, planned.cache / "programs"
    other = replace(planned.plan.tables[0], weights_sha256="0" * 64)
    file = program_files(other, tmp_path)[1]
    weights.save_weights({"linear.weight": torch.ones(4, 4)}, file)
    program = loading.load_program(
        program_files(other, folder)[0], planned.plan.tables[0].graph_sha256
    )
    with pytest.raises(WeightsError, match=f"^{file}: (has no )?tensor '.*'"):
        loading.load_tensors(file, [program])
    assert session.model == SCATTERED


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
    models = join.load(made.plan, session, made.cache / "programs")
    assert len({frozenset(of.program.tensors) for of in models.values()}) == 1


def test_numbers_that_a_factory_draws_are_the_same_on_all_hosts(tmp_path: Path) -> None:
    made = lab(tmp_path, {"models": ["tests.helpers.travellers:Scaled"]})
    [session] = made.plan.sessions
    [first], [again] = (
        join.load(made.plan, session, made.cache / "programs").values() for _ in range(2)
    )
    given = torch.ones(1, 4)
    assert torch.equal(first.whole(given)[0], again.whole(given)[0])

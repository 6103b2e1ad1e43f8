"""A program survives its file, and a file that is none is refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from paretopipe_worker.model import program as programs
from paretopipe_worker.model.loading import load_program, partitioned, save_program
from paretopipe_worker.model.natives import overload
from paretopipe_worker.model.partition import Partitioned
from paretopipe_worker.model.program import Operation, PartitionError, Program, Word
from tests.helpers import networks
from tests.helpers.models import captured_at, programmed, two_inputs

pytestmark = pytest.mark.slow


class _Special(nn.Module):
    """Computes with all that an argument may be."""

    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        """Shape (batch, 4) to a few tensors."""
        masked = x.masked_fill(x > 1, float("-inf")).amax(1, keepdim=True)
        parts = torch.split(x, [1, 3], 1)
        halved = x.to(torch.float16).to(memory_format=torch.contiguous_format)
        rounded = torch.div(x, 3, rounding_mode="floor") + torch.full_like(x, 0.1)
        made = torch.zeros(2, 4, dtype=torch.int64, device="cpu") + 2**40
        return {
            "a": (masked.exp(), [parts[1], halved]),
            "b": {"c": rounded, "d": x[:, None, [0, 2]]},
            "e": (x.nan_to_num(posinf=float("inf")), made),
        }


@pytest.fixture(scope="module")
def special() -> Partitioned:
    """A program with every kind of argument."""
    return programmed(_Special().eval(), torch.randn(2, 4))


def _arguments(program: Program) -> list[Any]:
    """All arguments of a program, flattened."""

    def flat(each: Any) -> list[Any]:
        return [a for part in each for a in flat(part)] if isinstance(each, tuple) else [each]

    return [a for o in program.operations for a in flat((o.args, tuple(o.kwargs.values())))]


def test_a_program_survives_its_file(special: Partitioned) -> None:
    for program in (
        special.program,
        captured_at("resnet18", size=64).program,
        programmed(networks.Language().eval(), torch.randn(1, 6, 8)).program,
    ):
        text = programs.dump(program)
        again = programs.load(text, "a file")
        assert asdict(again) == asdict(program)
        assert programs.dump(again) == text
        assert programs.sha256(again) == programs.sha256(program)
    kinds = {type(each) for each in _arguments(special.program)}
    words = {each.kind for each in _arguments(special.program) if isinstance(each, Word)}
    assert kinds >= {float, int, str, bool, type(None), programs.Ref, Word}
    assert words >= {"dtype", "device"}


def test_a_program_from_a_file_computes_the_same(special: Partitioned, tmp_path: Path) -> None:
    tensor = torch.randn(2, 4)
    file = tmp_path / "program.json"
    save_program(special.program, file)
    loaded = partitioned(load_program(file, programs.sha256(special.program)), special.tensors)
    for own, wanted in zip(loaded.whole(tensor), special.whole(tensor), strict=True):
        assert torch.equal(own, wanted)
    assert loaded.program.returned == (
        *("['a'][0]", "['a'][1][0]", "['a'][1][1]"),
        *("['b']['c']", "['b']['d']", "['e'][0]", "['e'][1]"),
    )


def test_a_changed_bit_of_the_file_is_refused_with_what_to_do(
    special: Partitioned, tmp_path: Path
) -> None:
    sha256 = programs.sha256(special.program)
    file = tmp_path / f"{sha256}.json"
    save_program(special.program, file)
    text = file.read_bytes()
    for place in range(0, len(text), len(text) // 20):
        changed = bytearray(text)
        changed[place] ^= 1
        file.write_bytes(changed)
        with pytest.raises(PartitionError) as refused:
            load_program(file, sha256)
        assert str(refused.value) == (
            f"{file}: is damaged: its bytes have another checksum; delete the file and run the "
            "sweep again"
        )
    save_program(special.program, file)
    with pytest.raises(PartitionError, match=f"checksum {sha256}, the plan's program has 0000"):
        load_program(file, "0" * 64)
    file.unlink()
    with pytest.raises(PartitionError, match=f"^{file}: cannot be read: No such file"):
        load_program(file, sha256)


Change = Callable[[dict[str, Any]], object]

WRONG: dict[str, tuple[Change, str]] = {
    "schema": (lambda d: d.update(schema=2), "has schema 2, this version reads 1"),
    "field": (lambda d: d.update(run="x"), "is no program: run: Unexpected keyword argument"),
    "operation's field": (
        lambda d: d["operations"][1].update(code="x"),
        r"is no program: operations\.1\.code: Unexpected keyword argument",
    ),
    "lacking field": (lambda d: d.pop("blocks"), "is no program: blocks: Field required"),
    "operations": (lambda d: d.pop("operations"), "is no program: 'operations'"),
    "later value": (
        lambda d: d["operations"].reverse(),
        r"is no program: operations\.\d \(\w+\): takes '\w+', which does not come before it",
    ),
    "own value": (
        lambda d: d["operations"][0].update(args=[{"value": d["operations"][0]["name"]}]),
        r"operations\.0 \((\w+)\): takes '\1', which does not come before it",
    ),
    "written value": (
        lambda d: d["operations"][0].update(writes=["nobody"]),
        r"operations\.0 \(\w+\): takes 'nobody', which does not come before it",
    ),
    "twice": (
        lambda d: d["operations"][1].update(name=d["operations"][0]["name"]),
        r"operations\.1 \(\w+\): another value has that name",
    ),
    "storage": (
        lambda d: d["operations"][0].update(storage="nowhere"),
        r"operations\.0 \(\w+\): shares the memory of 'nowhere', which is not",
    ),
    "target": (
        lambda d: d["operations"][0].update(target="os.system"),
        r"operations\.0 \(\w+\): target 'os\.system'; allowed is ns::name\.overload",
    ),
    "output": (lambda d: d.update(outputs=["nothing"] * 7), "outputs: 'nothing' is no value of it"),
    "names of outputs": (lambda d: d["returned"].pop(), "returned: there must be a name for each"),
    "inputs": (
        lambda d: d["inputs"].append(d["inputs"][0]),
        "two of its inputs and tensors have one name",
    ),
    "arguments": (
        lambda d: d["operations"][0].update(args="ab"),
        r"operations\.0 \(\w+\): args must be a list",
    ),
    "first argument": (
        lambda d: d["operations"][0].update(args=[], free=True),
        r"operations\.0 \(\w+\): its first argument must be a value",
    ),
    "argument": (
        lambda d: d["operations"][0].update(args=[{"value": "x", "float": "1"}]),
        "argument {'value': 'x', 'float': '1'}; allowed are value, float, device",
    ),
    "word": (
        lambda d: d["operations"][0].update(args=[{"dtype": "float32()"}]),
        r"argument {'dtype': 'float32\(\)'}; allowed are",
    ),
    "number": (
        lambda d: d["operations"][0].update(args=[{"float": "x"}]),
        "could not convert string to float: 'x'",
    ),
    "dtype": (
        lambda d: d["inputs"][0]["layout"].update(dtype="float8"),
        r"inputs\.0\.layout: Value error, dtype 'float8'; allowed are float64, ",
    ),
    "shape": (
        lambda d: d["inputs"][0]["layout"].update(shape=[-1, 4]),
        r"inputs\.0\.layout: Value error, shape \(-1, 4\) and strides \(4, 1\) do not fit",
    ),
}
"""By what is wrong with a program's file: how it is changed, and what is said."""


@pytest.mark.parametrize("change,said", WRONG.values(), ids=WRONG)
def test_a_file_that_is_no_program_is_refused_in_one_line(
    special: Partitioned, change: Change, said: str
) -> None:
    document = json.loads(programs.dump(special.program))
    change(document)
    _assert_refused(json.dumps(document).encode(), said)


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b"[]", b"{", b"3", b"\xff", b'{"schema": 1}', b'{"schema": 1, "operations": [3]}'),
        b'{"schema":1,"operations":[{"args":' + b"[" * 9000 + b"]" * 9000 + b',"kwargs":{}}]}',
    ],
    ids=lambda text: text[:40].decode(errors="replace"),
)
def test_what_is_no_document_is_refused_in_one_line(text: bytes) -> None:
    _assert_refused(text, "is no program: |has schema None")


def _assert_refused(text: bytes, said: str) -> None:
    """Read a file that must be refused, and compare what is said of it."""
    with pytest.raises(PartitionError, match=said) as refused:
        programs.load(text, "/a/program.json")
    line = str(refused.value)
    assert line.startswith("/a/program.json: ")
    assert len(line.splitlines()) == 1 and len(line) < 900, line


@pytest.mark.parametrize(
    "target,said",
    [
        (
            "aten::no_such.default",
            "aten::no_such.default is unknown on this host; it belongs to torch, ",
        ),
        ("aten::relu.no_such", "operator aten::relu.no_such is unknown"),
        ("no_such::op.default", "it belongs to package 'no_such', which must be installed here"),
    ],
)
def test_an_operator_that_a_host_does_not_have_is_refused_by_name(
    special: Partitioned, target: str, said: str
) -> None:
    first, *others = special.program.operations
    program = replace(special.program, operations=(replace(first, target=target), *others))
    loaded = partitioned(programs.load(programs.dump(program), "a file"), special.tensors)
    with pytest.raises(PartitionError, match=said) as refused:
        loaded.whole  # noqa: B018
    assert len(str(refused.value).splitlines()) == 1


def test_a_constant_that_torch_does_not_have_is_refused_by_name(special: Partitioned) -> None:
    operations = list(special.program.operations)
    [number] = [n for n, each in enumerate(operations) if "zeros" in each.target]
    operations[number] = _with(operations[number], dtype=Word("dtype", "int65"))
    program = replace(special.program, operations=tuple(operations))
    loaded = partitioned(programs.load(programs.dump(program), "a file"), special.tensors)
    with pytest.raises(PartitionError, match=r"^torch has no dtype 'int65'$"):
        loaded.whole  # noqa: B018


def _with(operation: Operation, **kwargs: Any) -> Operation:
    """An operation with other keyword arguments."""
    return replace(operation, kwargs={**operation.kwargs, **kwargs})


def test_nothing_in_a_file_is_run_as_code(special: Partitioned, tmp_path: Path) -> None:
    """Texts of a program, such as names, are bound or quoted wherever a stage's source has them."""
    ran = tmp_path / "ran"
    code = f"__import__('pathlib').Path({str(ran)!r}).touch()"
    document = json.loads(programs.dump(special.program).decode())
    old = document["inputs"][0]["name"]
    text = json.dumps(document).replace(json.dumps(old), json.dumps(code))
    loaded = partitioned(programs.load(text.encode(), "a file"), special.tensors)
    tensor = two_inputs("resnet18")[0][0, 0, :2, :4]
    assert all(map(torch.equal, loaded.whole(tensor), special.whole(tensor)))
    document["operations"][0]["kwargs"][f"x={code}, y"] = 1
    said = r'operations\.0 \(\w+\): kwargs: "x=__import__.*" is no name of an argument'
    _assert_refused(json.dumps(document).encode(), said)
    assert not ran.exists()
    assert overload("aten::relu.default") is torch.ops.aten.relu.default

"""Models are tried out before any host is touched; one that cannot be measured is refused."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass

import pytest

from tests import ROOT

HERE = r"\((/.*/)?tests/helpers/unfit\.py:\d+\)"
FULL = r"\(/.*/tests/helpers/unfit\.py:\d+\)"
ALONE = "allowed are models whose output depends on the input alone"
RANDOM = "something else each time it runs on the same input: it draws random numbers"
ONE_INPUT = r"; allowed is a forward that needs nothing but one tensor of float32"

REFUSED = {
    "dropout": rf"it draws random numbers with dropout in its forward {HERE}; {ALONE}",
    "noise": rf"it draws random numbers with rand_like in its forward {HERE}; {ALONE}",
    "chance": rf"{RANDOM} from Python's module `random`",
    "numpy_chance": rf"{RANDOM} from numpy\.random",
    "stays_in_training": rf"it draws random numbers with dropout in module '1'; {ALONE}",
    "Counting": "each time it runs on the same input: it keeps state that is neither parameter nor",
    "Remembering": "the model changes seen as it runs; allowed",
    "Autocast": rf"it computes module 'first' {HERE} under torch\.autocast; allowed are casts of",
    "exports_otherwise": rf"captured of Sequential does not return what it returns: they differ by "
    rf"\d\S* of its largest value .*begins in module '1\.1\.last' .*does not record, .*; {ALONE}",
    "branches": r"depends on the values of tensors in module '1\.1' \(Branching\), "
    r"tests/helpers/unfit\.py:\d+: `if x\.sum\(\) > 0:`; allowed is control flow that depends on",
    "reads_a_value": rf"it reads a number from a tensor in its forward {HERE}; allowed are numbers",
    "selects": rf"index makes a tensor whose shape depends on the values .* in its forward {HERE};",
    "slices": r"its control flow, or a shape, depends .*unfit\.py:\d+: `slices = .*`; allowed is",
    "conditional": rf"it calls cond, which is no operator, in its forward {HERE}; allowed are",
    "mapped": rf"batched by torch\.vmap, .* {HERE}; allowed|{HERE}; allowed .* and torch\.vmap",
    "leaves_torch": rf"Network cannot be captured: RuntimeError: .*numpy\(\).* {FULL}; allowed are",
    "seeded": rf"it computes with a Generator in its forward {HERE}; allowed are tensors and",
    "factory_raises": rf"its factory failed with RuntimeError: first line {HERE}; allowed is a fun",
    "factory_exits": rf"its factory failed with SystemExit: 0 {HERE}; allowed",
    "factory_wants_more": "its factory failed with TypeError: .*'classes'; allowed is a function",
    "forward_raises": rf"of shape \(1, 4\) failed with KeyError: .*\.\.\. {HERE}{ONE_INPUT}",
    "forward_says_nothing": rf"failed with ValueError {HERE}{ONE_INPUT}",
    "Normed": rf"running it on .* \(4, 4\) failed with KeyError: .* {HERE}{ONE_INPUT}",
    "TwoInputs": rf"failed with TypeError: .* argument: 'y'{ONE_INPUT}$",
    "half": rf"RuntimeError: .*{ONE_INPUT}, and parameters of float32 \(it has float16\)",
    "double": rf"RuntimeError: .*{ONE_INPUT}, and parameters of float32 \(it has float64\)",
    "scripted": r"returned TorchScript; allowed is the nn\.Module that it was made from",
    "compiled": r"returned what torch\.compile made; allowed is the nn\.Module that it was",
    "quantised": r"more than tensors \(first\._packed_params.*allowed are layers whose state is t",
    "lazy": "its factory failed with ValueError: Attempted to use an uninitialized parameter",
    "meta": "drawing its weights and running it failed with RuntimeError: .*meta",
    "no_shape": r"its `input_shape` is 4; allowed is the shape of one input",
    "empty_shape": r"its `input_shape` is \(0, 4\); allowed",
    "other_shape": rf"on a tensor of shape \(1, 5\) failed with RuntimeError: .*{ONE_INPUT}",
    "embedding": rf"failed with RuntimeError: .*{ONE_INPUT}",
    "nothing": "it computes nothing; allowed",
    "not_a_number": "forward returns values that are not finite; allowed",
    "mixture": "forward returns float in its dict; allowed are tensors, and tuples, lists and",
    "complex_output": r"a tensor of complex64 .*; allowed are dense ones of float64, float32",
    "sparse_output": r"a tensor of float32 \(torch\.sparse_coo\), which cannot cross",
}
"""What is said of each of `tests.helpers.unfit`."""

ACCEPTED = ("works", "talks", "Forgetful", "hooked", "Wrapped", "dictionary")

PREPARE = """\
import sys, traceback
from paretopipe_worker.__main__ import main
folder, fleet, *names = sys.argv[1:]
for name in names:
    with open(f"{folder}/spec.yml", "w") as spec:
        spec.write(f"models: ['tests.helpers.unfit:{name}']")
    places = ("--results", f"{folder}/{name}", "--cache", f"{folder}/cache")
    arguments = ("--experiment", f"{folder}/spec.yml", "--fleet", fleet, "--run", name)
    try:
        status = main(["prepare", *arguments, *places])
    except BaseException:
        traceback.print_exc()
        status = 1
    print("\\nended", name, status, file=sys.stderr, flush=True)
main(["cuts", "tests.helpers.unfit:talks", "--json"])
"""


@dataclass(frozen=True)
class Prepared:
    """What ``prepare`` said of each model on standard error, and how it ended."""

    said: dict[str, str]
    status: dict[str, int]
    cuts: str


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """One process for all of them, since torch takes seconds to import."""
    hosts = [{"name": name, "data_address": f"10.0.0.{len(name)}"} for name in ("edge", "server")]
    names = (*REFUSED, *ACCEPTED)
    done = subprocess.run(
        [sys.executable, "-c", PREPARE, tmp_path_factory.mktemp("run"), json.dumps(hosts), *names],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    parts = re.split(r"\nended (\w+) (\d)\n", done.stderr)
    said = dict(zip(parts[1::3], parts[::3], strict=False))
    assert tuple(said) == names, done.stderr
    status = dict(zip(parts[1::3], map(int, parts[2::3]), strict=True))
    return Prepared(said, status, done.stdout[done.stdout.rindex('{\n "model"') :])


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_measured_is_refused_in_one_line_that_says_why(
    prepared: Prepared, name: str
) -> None:
    said = prepared.said[name]
    assert prepared.status[name] == 2, said
    assert said.startswith(f"models[0]: model 'tests.helpers.unfit:{name}': "), said
    assert re.search(REFUSED[name], said), said
    assert len(said.strip().splitlines()) == 1 and len(said) < 900, said


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_can_be_measured_is_planned(prepared: Prepared, name: str) -> None:
    assert prepared.status[name] == 0, prepared.said[name]


def test_what_a_factory_prints_is_no_part_of_our_output(prepared: Prepared) -> None:
    assert set(prepared.said["talks"].splitlines()) == {"a model is being built"}
    assert json.loads(prepared.cuts)["model"] == "tests.helpers.unfit:talks"

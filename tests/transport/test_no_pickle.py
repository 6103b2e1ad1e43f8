"""Nothing that a host sends to another one over `tcp` is ever unpickled.

torch and the standard library import ``pickle`` for themselves, so that no process with torch can
be without it. So there are two tests. One walks the imports of this package from what reads the
network, and finds no module of it that could unpickle. The other runs links with every unpickler
of the process out of order. `rpc` unpickles, see docs/reliability.md.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import ROOT

WORKER = "paretopipe_worker"

READ_THE_NETWORK = (
    *("session.stage", "session.pair", "transport.tcp", "wire.fixed", "wire.lossless"),
    *("execution.eager", "execution.onnx", "execution.cuda"),
)
"""Modules from which the imports are followed: the processes that hosts run, the backend, and what
is imported by its name: formats and runtimes. (`model.flat` executes source that this package has
made of the controller's program, which no other host sends.)"""

LIBRARIES = {"transport.rpc", "transport.gloo", "transport.group"}
"""The other backends, which are imported where a session asks for them."""

UNPICKLERS = {
    *("pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"),
    *("multiprocessing", "torch.multiprocessing", "torch.package", "torch.distributed"),
    *("pandas", "asyncore", "socketserver", "xmlrpc"),
}
"""Modules that unpickle or unmarshal, or that others' connections may make do so."""

CALLS = {
    *("torch.load", "torch.jit.load", "torch.export.load", "numpy.load", "np.load"),
    *("eval", "marshal.loads", "yaml.load", "yaml.unsafe_load", "yaml.full_load"),
}
"""Functions that unpickle, or make objects of what is written, by the names they are called by."""


def file_of(module: str) -> Path | None:
    """The file of a module of the worker, named inside it; None where there is none."""
    path = ROOT.joinpath(WORKER, *module.split("."))
    found = [each for each in (path.with_suffix(".py"), path / "__init__.py") if each.is_file()]
    return found[0] if found else None


def imported(tree: ast.AST) -> Iterator[str]:
    """Full names of what a module imports anywhere in it, of names in modules too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def reached() -> dict[str, ast.AST]:
    """Every module of the worker that is imported from `READ_THE_NETWORK`, with its source."""
    found: dict[str, ast.AST] = {}
    waiting = list(READ_THE_NETWORK)
    while waiting:
        module = waiting.pop()
        path = file_of(module)
        if path is None or module in found or module in LIBRARIES:
            continue
        found[module] = tree = ast.parse(path.read_text(encoding="utf-8"))
        own = f"{WORKER}."
        waiting += [name.removeprefix(own) for name in imported(tree) if name.startswith(own)]
    return found


def faults(module: str, tree: ast.AST) -> Iterator[str]:
    """What of a module could unpickle."""
    for name in imported(tree):
        if any(name == each or name.startswith(f"{each}.") for each in UNPICKLERS):
            yield f"{module} imports {name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in CALLS:
            yield f"{module}:{node.lineno} calls {ast.unparse(node.func)}"


def test_no_module_that_reads_the_network_can_unpickle() -> None:
    modules = reached()
    assert {"transport.doorway", "session.control", "model.loading"} <= modules.keys()
    assert [fault for module, tree in modules.items() for fault in faults(module, tree)] == []


def test_what_is_imported_by_name_is_known() -> None:
    """Else the walk above would miss it: backends and formats have lists, and runtimes."""
    by_name = {
        f"{module}: {ast.unparse(node.args[0])}"
        for module, tree in reached().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module")
    }
    assert by_name == {
        "transport.api: BACKENDS[backend].module",
        "execution.api: modules[kind(device)]",
        "wire.formats: f'paretopipe_worker.wire.{FORMATS[name][0]}'",
        # The libraries that compress, and those that a host installs for the plan's operators.
        "wire.lossless: module",
        "model.natives: namespace",
    }


POISONED = """
import pickle
import torch
from tests.helpers.rings import endpoints, joined
from paretopipe_worker.session import control
from paretopipe_worker.transport.api import Tag
from paretopipe_worker.transport.handshake import Identity
from paretopipe_worker.wire.formats import FORMATS, packer
from paretopipe_worker.cuts import TensorSpec, Varying
from concurrent.futures import ThreadPoolExecutor

def refused(*_, **__):
    raise SystemExit("something was unpickled")

for name in ("load", "loads", "Unpickler", "_Unpickler", "_load", "_loads"):
    setattr(pickle, name, refused)
import _pickle
for name in ("load", "loads", "Unpickler"):
    setattr(_pickle, name, refused)
torch.load = refused

specs = [TensorSpec((64,), "float32")]
made = (torch.arange(64.0),)
ends = endpoints()
with joined("tcp", ends) as (first, second):
    for name in FORMATS:
        packed = packer(name, specs)
        message = torch.frombuffer(bytearray(packed.pack(made)), dtype=torch.uint8)
        wire = [Varying.up_to(packed.most_bytes)]
        for transport in (first, second):
            transport.configure(wire, wire, window=1, deadline_s=20)
            transport.begin(overlap=False)
        first.send(Tag(2, 0), [message])
        [came] = second.recv().tensors
        assert len(packed.unpack(came.numpy().tobytes())) == 1
address = ends[0].own
identities = [Identity("control", rank, "test", ends[0].agreement, b"s" * 64) for rank in (0, 1)]
with ThreadPoolExecutor(1) as pool:
    leading = pool.submit(control.lead, address, identities[0], {"host": "a"}, 2, 20)
    channel = control.follow(address, address[0], identities[1], {"host": "b"}, 20)
    [other] = leading.result(20)
    other.send({"do": "point"})
    assert channel.receive(20) == {"do": "point"}
print("done", *FORMATS)
"""


def test_links_work_with_every_unpickler_out_of_order() -> None:
    done = subprocess.run(
        [sys.executable, "-c", POISONED], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("done fp32"), done.stdout


@pytest.mark.parametrize("planted", ["import pickle\npickle.loads(b'')", "torch.load('x')"])
def test_the_walk_finds_what_it_looks_for(planted: str) -> None:
    assert list(faults("planted", ast.parse(planted)))

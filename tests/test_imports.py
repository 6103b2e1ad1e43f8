"""Imports point one way: the rooms of docs/architecture.md, held against the code."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT

WORKER = "paretopipe_worker"

FLOORS: dict[str, dict[str, set[str]]] = {
    WORKER: {
        "cuts": set(),
        "usertext": set(),
        "bounded": set(),
        "link": {"usertext", "bounded"},
        "records": {"link", "bounded"},
        "transport": {"cuts"},
        "wire": {"cuts"},
        "model": {"cuts"},
        "execution": {"cuts", "model"},
        "plan": {
            *("cuts", "usertext", "bounded", "link", "records", "transport", "wire"),
            "execution",
        },
        "host": {"records"},
        "fitness": {"usertext", "plan", "host"},
        "shaping": {"usertext", "link", "host"},
        "session": {
            *("cuts", "link", "records", "transport", "wire", "model", "plan", "host"),
            "execution",
        },
        "wheels": {"usertext", "bounded"},
        "exports": {"cuts", "model", "plan"},
        "prepare": {"cuts", "usertext", "model", "plan", "exports"},
    },
    "analysis": {
        "column": set(),
        "provenance": set(),
        "importing": {"column"},
        "frames": set(),
        "run": {"frames"},
        "measures": {"column", "run"},
        "tables": {"column", "run", "measures"},
        "prediction": {"column", "run", "measures", "tables"},
        "guiding": {"column", "run", "measures", "tables", "prediction"},
        "answers": {"column", "run", "measures", "tables", "prediction"},
        "figures": {"column", "run", "measures", "tables", "prediction"},
        "report": {
            *("column", "provenance", "run", "measures", "tables", "prediction", "answers"),
            "figures",
        },
    },
}
"""The rooms of each package, lowest first, and what each may import beside itself.

Modules that are not named are commands, which may import everything and which no room imports."""

OF_THE_WORKER = {"cuts", "usertext", "bounded", "link", "records", "transport.backends", "plan"}
"""Rooms and modules of the worker that the analysis may import."""


def imports(path: Path) -> set[str]:
    """Full names of the modules a file imports anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {m for m in modules if is_module(m)} or {node.module}
    return found


def is_module(name: str) -> bool:
    """Whether a full name is a module of this tree."""
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or path.is_dir()


def modules(package: str) -> dict[str, Path]:
    """Modules of a package by their name inside it."""
    files = sorted((ROOT / package).rglob("*.py"))
    names = (".".join(f.relative_to(ROOT / package).with_suffix("").parts) for f in files)
    return {n.removesuffix(".__init__"): f for n, f in zip(names, files, strict=True)}


def rooms(package: str, path: Path) -> set[str]:
    """Rooms of a package that a file imports from."""
    own = {n.removeprefix(f"{package}.") for n in imports(path) if n.startswith(f"{package}.")}
    return {name.partition(".")[0] for name in own}


@pytest.mark.parametrize("package", FLOORS)
def test_a_room_imports_only_rooms_below_it(package: str) -> None:
    floors = FLOORS[package]
    for name, path in modules(package).items():
        room = name.partition(".")[0]
        if room in floors:
            unasked = rooms(package, path) - floors[room] - {room}
            assert not unasked, f"{path} imports {sorted(unasked)}; {room} may {floors[room]}"


@pytest.mark.parametrize("package", FLOORS)
def test_the_rooms_have_an_order(package: str) -> None:
    below: set[str] = set()
    for room, allowed in FLOORS[package].items():
        assert allowed <= below, f"{room} may import {sorted(allowed - below)}, which come after it"
        below.add(room)


def test_the_analysis_knows_the_contracts_of_the_worker_alone() -> None:
    for path in modules("analysis").values():
        for name in imports(path):
            of_worker = name.removeprefix(f"{WORKER}.")
            known = of_worker == name or {of_worker, of_worker.partition(".")[0]} & OF_THE_WORKER
            assert known or name == WORKER, f"{path} imports {name}"


@pytest.mark.parametrize("package", [WORKER, "analysis"])
def test_no_package_imports_what_its_machine_need_not_have(package: str) -> None:
    banned = {
        WORKER: {"pandas", "seaborn", "matplotlib", "ansible", "analysis", "tests"},
        "analysis": {"torch", "torchvision", "ansible", "tests"},
    }[package]
    for path in modules(package).values():
        found = {name.partition(".")[0] for name in imports(path)}
        assert not found & banned, f"{path} imports {sorted(found & banned)}"


@pytest.mark.parametrize(
    ("statement", "banned"),
    [
        ("import paretopipe_worker.__main__", ["torch", "pydantic", "pandas"]),
        ("import analysis.pareto", ["torch", "ansible"]),
        ("import paretopipe_worker.session.stage", ["pandas", "ansible", "torchvision"]),
        ("from paretopipe_worker.wire import formats", ["torch", "zstandard", "lz4"]),
        ("from paretopipe_worker.execution import runtimes", ["torch", "onnxruntime"]),
        ("from paretopipe_worker.wire import fixed", ["zstandard", "lz4"]),
        ("import paretopipe_worker.session.pair", ["torch", "pydantic", "numpy"]),
        ("from paretopipe_worker.plan import controller, planner, resume", ["torch"]),
    ],
)
def test_nothing_heavy_is_loaded_by_way_of_others(statement: str, banned: list[str]) -> None:
    code = f"import sys\n{statement}\nprint(sorted(set({banned!r}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"

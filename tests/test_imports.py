"""Imports point one way: the table of docs/architecture.md, held against the code."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WORKER = "paretopipe_worker"

ASKED = {"paths"} | {
    f"link.{name}" for name in ("conditions", "profiles", "presets", "samples", "traces")
}
PLAIN = {"backends", "cuts", "spec", "fleet", "records", "window"} | ASKED
PLANNED = {"attempts", "belonging", "planner", "predict", "resume"}
PLANNING = PLAIN | PLANNED | {"code", "plan", "warmup"}
MODELS = {"cuts", "models", "drawing", "weights", "checkpoints", "nms", "usercode"} | {
    *("graph", "tracing", "partition", "loading", "trial"),
}
TRANSPORT = {"agreement", "backends", "cuts", "transport"} | {
    f"transport.{name}" for name in ("handshake", "ring", "sockets", "group", "tcp", "rpc", "gloo")
}
DEVICE = {
    "lease",
    "daemons",
    "supervise",
    "governor",
    "timers",
    "link.conditions",
    "link.traces",
} | {
    f"link.{name}"
    for name in (
        *("command", "shaping", "goal", "keeper", "relay", "counters", "stepper", "replay"),
        *("interfaces", "tcp_settings", "tc", "netem", "htb"),
    )
}
MAY_IMPORT = {
    **{name: set() for name in ("agreement", "code", "cuts", "fleet", "paths")},
    **{name: set() for name in ("link.conditions", "link.presets")},
    "records": {"link.conditions"},
    "link.profiles": ASKED,
    "backends": set(),
    "spec": ASKED | {"backends", "window"},
    "window": set(),
    "warmup": {"spec"},
    "arrivals": {"spec", "window"},
    "outputs": {"partition"},
    "plan": PLAIN,
    **dict.fromkeys(PLANNED, PLANNING),
    **dict.fromkeys(MODELS - {"cuts"}, MODELS),
    **dict.fromkeys(TRANSPORT - {"agreement", "backends", "cuts"}, TRANSPORT),
    **dict.fromkeys(DEVICE, DEVICE),
    "tiny": set(),
    "control": TRANSPORT,
    "health": {"records", "sensors"},
    "sensors": set(),
    "clocks": {"control", "records"},
    "machine": {"sensors"},
    "preflight": {"daemons", "machine"},
    "facts": {"machine", "supervise"},
    "segments": {"control", "link.state", "link.replay"},
    "compute": {"partition", "timers", "usercode"},
    "probe": TRANSPORT | {"control", "records", "link.conditions", "datagrams"},
    "datagrams": {"control", "records", "link.conditions"},
    "link.state": {"link.conditions", "link.counters", "link.replay"},
    **{name: {"link.conditions"} for name in ("link.samples", "link.traces")},
    "link.replay": set(),
    "prepare": PLANNING | MODELS,
}
"""Modules of the worker that each of its modules may import, beside `EVERYWHERE`.

Those not named may import all."""

EVERYWHERE = {"shown"}


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


@pytest.mark.parametrize("name", sorted(MAY_IMPORT))
def test_a_worker_module_imports_only_what_the_table_allows(name: str) -> None:
    path = modules(WORKER)[name]
    own = {n.removeprefix(f"{WORKER}.") for n in imports(path) if n.startswith(f"{WORKER}.")}
    own -= EVERYWHERE
    assert own <= MAY_IMPORT[name], f"{path} imports {sorted(own - MAY_IMPORT[name])}"


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
        ("import paretopipe_worker.session.stage", ["pandas", "ansible"]),
        ("import paretopipe_worker.plan.planner, paretopipe_worker.plan.resume", ["torch"]),
    ],
)
def test_nothing_heavy_is_loaded_by_way_of_others(statement: str, banned: list[str]) -> None:
    code = f"import sys\n{statement}\nprint(sorted(set({banned!r}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"

"""Fuzz everything that reads what others wrote, guided by coverage, and say what was found.

``python -m tests.fuzz [--inputs N] [--targets NAME ...] [--seed N] [--found FOLDER] [--json]``
``python -m tests.fuzz --again TARGET FILE``

libFuzzer (by way of Atheris) changes right inputs and keeps what reaches new code. Each target has
a process of its own. An error that its reader does not document, an input that takes longer than 20
seconds, and memory beyond a bound end that process; the input is kept in a folder, and ``--again``
tries it once more.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import atheris  # type: ignore[import-untyped]

with atheris.instrument_imports(include=["paretopipe_worker", "analysis"]):
    from tests.fuzz.targets import TARGETS

_INPUTS = 100_000
_INPUT_S = 20
_RESIDENT_MB = 1024
_GROWN_KB = 16 << 10
"""Growth between the first half and the end from which memory counts as growing."""


def main() -> int:
    """Fuzz, print what was tried and found; 1 where a fault was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=_INPUTS, help="inputs tried of each target")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--seed", type=int, default=1, help="of the changes")
    parser.add_argument("--found", type=Path, default=Path("fuzz-found"), metavar="FOLDER")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--again", nargs=2, metavar=("TARGET", "FILE"), help="try one input")
    options = parser.parse_args()
    if options.again:
        name, file = options.again
        TARGETS[name].check(Path(file).read_bytes())
        return 0
    with tempfile.TemporaryDirectory() as folder:
        rows = _all(options, Path(folder))
    tried = sum(row["tried"] for row in rows)
    faults = [row for row in rows if row["fault"]]
    if options.json:
        print(json.dumps({"seed": options.seed, "tried": tried, "rows": rows}, indent=1))
    else:
        for row in rows:
            grown = "-" if row["grown_kb"] is None else f"{row['grown_kb'] / 1024:.1f} MB"
            print(f"{row['target']:12} {row['tried']:>9,} inputs  grown {grown:>8}  {row['fault']}")
        print(f"{tried:,} inputs, {len(faults)} targets with a fault")
    return 1 if faults else 0


def _all(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Fuzz each target in a process, as many at once as there are cores."""
    waiting, running, rows = list(options.targets), dict[int, str](), dict[str, dict[str, Any]]()
    sys.stdout.flush()
    while waiting or running:
        while waiting and len(running) < (os.cpu_count() or 1):
            name = waiting.pop(0)
            (folder / name).mkdir()
            # Forked, since importing torch takes longer than thousands of inputs.
            if not (child := os.fork()):
                try:
                    _fuzz(name, options, folder / name)
                except BaseException:
                    traceback.print_exc()
                # Nothing of the parent's may end in this process too, such as its folder.
                os._exit(1)
            running[child] = name
        child, status = os.wait()
        name = running.pop(child)
        code = os.waitstatus_to_exitcode(status)
        rows[name] = _row(name, code, folder / name, options.found.resolve() / name)
    return [rows[name] for name in options.targets]


def _fuzz(name: str, options: argparse.Namespace, folder: Path) -> None:
    """Try inputs of one target until libFuzzer ends this process."""
    target, found = TARGETS[name], options.found.resolve() / name
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    corpus, status = folder / "corpus", folder / "status"
    for each in (found, corpus):
        each.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (corpus / str(number)).write_bytes(seed)
    tried, resident_kb = 0, {}

    def one(data: bytes) -> None:
        nonlocal tried
        try:
            target.check(data)
        except Exception:
            (found / f"fault-{hashlib.sha256(data).hexdigest()[:16]}").write_bytes(data)
            raise
        tried += 1
        if tried % 1000 == 0:
            resident_kb[tried] = int(Path("/proc/self/statm").read_text().split()[1]) * 4
            status.write_text(json.dumps({"tried": tried, "resident_kb": resident_kb}))

    told = [
        *(f"-runs={options.inputs}", f"-seed={options.seed}", f"-max_len={target.most_bytes}"),
        *(f"-timeout={_INPUT_S}", f"-rss_limit_mb={_RESIDENT_MB}", f"-artifact_prefix={found}/"),
    ]
    atheris.Setup([sys.argv[0], *told, str(corpus)], one)
    atheris.Fuzz()
    os._exit(0)


def _row(name: str, code: int, folder: Path, found: Path) -> dict[str, Any]:
    """What came of one target.

    Returns
    -------
    ``target``; ``tried``, the inputs; ``grown_kb``, by how much the process's memory grew between
    half of them and the end, null with too few; and ``fault``, empty where none was found.
    """
    status = folder / "status"
    told = json.loads(status.read_text()) if status.exists() else {"tried": 0, "resident_kb": {}}
    memory = {int(tried): kb for tried, kb in told["resident_kb"].items()}
    half = [kb for tried, kb in memory.items() if tried >= told["tried"] / 2]
    grown_kb = max(half) - half[0] if len(half) > 1 else None
    fault = ""
    if code:
        why = _why((folder / "log").read_text(errors="replace"))
        fault = f"{why}; its input is in {found}"
    elif grown_kb is not None and grown_kb > _GROWN_KB:
        fault = f"its memory grew by {grown_kb} kB"
    return {"target": name, "tried": told["tried"], "grown_kb": grown_kb, "fault": fault}


def _why(output: str) -> str:
    """What ended a fuzzer, in a line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    after = [n for n, line in enumerate(lines) if "Uncaught Python exception" in line]
    if after and len(lines) > after[0] + 1:
        return lines[after[0] + 1]
    telling = [line for line in lines if line.startswith("==") and "ERROR" in line]
    return (telling or lines[-1:] or ["it ended without a word"])[0]


if __name__ == "__main__":
    sys.exit(main())

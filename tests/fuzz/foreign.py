"""What reads files that people, hosts and other tools wrote, on the controller."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import orjson
import yaml

from analysis import archive, links, turns
from analysis.importing import kinds, metric_files, time_tables
from analysis.prediction import pipeedge
from analysis.run import RunError
from paretopipe_worker import bounded
from paretopipe_worker.fitness.answers import parse
from paretopipe_worker.fitness.findings import table
from paretopipe_worker.plan import generations
from paretopipe_worker.plan.generations import Choice, Generation, Standing
from paretopipe_worker.records.pairs import SCHEMA
from tests.helpers.answers import judged, raw
from tests.helpers.fake_plan import make, tiny_table

MEMORY = "/dev/shm"

_PLAN = make(tiny_table())


def _in_folder(
    data: bytes, name: str, read: Callable[[Path], object], *refusals: type[BaseException]
) -> None:
    """Read a folder in which one file holds these bytes."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        path = Path(folder, name)
        path.write_bytes(data)
        with contextlib.suppress(*refusals):
            read(path)


def documents(data: bytes) -> None:
    """JSON, which must be what Python reads, or refused."""
    with tempfile.NamedTemporaryFile(dir=MEMORY) as file:
        file.write(data)
        file.flush()
        try:
            found = bounded.document(Path(file.name), 1 << 20)
        except bounded.UnreadableFile:
            return
        assert found == json.loads(data.decode("utf-8-sig"))
        json.dumps(found, allow_nan=False, ensure_ascii=False).encode()


def archives(data: bytes) -> None:
    """A sealed run from somebody else."""

    def read(path: Path) -> None:
        with archive.opened(path) as unpacked:
            archive.code(unpacked, Path("/nowhere"))

    with warnings.catch_warnings(action="ignore"):
        _in_folder(data, "a.zip", read, archive.ArchiveError)


def metrics(data: bytes) -> None:
    """A metric file of the paper's tool."""
    read = metric_files.KIND.rows
    name = "net_split_1_metrics.json"
    _in_folder(data, name, lambda path: read(path, Path(name)), kinds.ImportingError)


def times(data: bytes) -> None:
    """A table of times."""
    read = time_tables.KIND.rows
    _in_folder(data, "a.txt", lambda path: read(path, Path("a.txt")), kinds.ImportingError)


def pipeedge_models(data: bytes) -> None:
    """The models of PipeEdge's scheduler."""
    _in_folder(
        data, pipeedge.MODELS, lambda path: pipeedge.read(path.parent), pipeedge.PipeEdgeError
    )


def tables_of_links(data: bytes) -> None:
    """A table of links."""
    _in_folder(data, "links.json", lambda path: links.read(path.parent), links.LinksError)


def logs(data: bytes) -> None:
    """What a sweep wrote down of its generations and its sessions."""

    def read(path: Path) -> None:
        with contextlib.suppress(RunError):
            path.with_name(turns.FILE).write_bytes(data)
            turns.turns(path.parent)
        generations.read(_PLAN, path.parent)

    _in_folder(data, generations.FILE, read, generations.GenerationsError)


def answers(data: bytes) -> None:
    """What a host tells of itself before anything is changed on it."""
    try:
        told = json.loads(data)
    except (ValueError, RecursionError):
        return
    if isinstance(told, dict):
        parts = {part: told.get(part) for part in ("user", "root")}
        found = judged({"pi": parse(raw(parts)), "server": parse(raw({}))})
        table(found, ["pi", "server"])


def archive_seed() -> list[bytes]:
    """A small archive: a bag with a plan and an experiment."""
    import bagit  # type: ignore[import-untyped]

    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        bag = Path(folder, "in", "kept")
        (bag / "run").mkdir(parents=True)
        (bag / "run" / "plan.json").write_text("{}", encoding="utf-8")
        (bag / "experiment.yml").write_text("models: [resnet18]\n", encoding="utf-8")
        bagit.make_bag(str(bag), {"External-Identifier": "kept"}, checksums=["sha256"])
        found = []
        for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            packed = io.BytesIO()
            with zipfile.ZipFile(packed, "w", method) as made:
                for path in sorted(bag.rglob("*")):
                    if path.is_file():
                        name = str(path.relative_to(bag.parent))
                        made.writestr(zipfile.ZipInfo(name), path.read_bytes(), method)
            found.append(packed.getvalue())
        return found


def metrics_seed() -> list[bytes]:
    """A file as the tool writes it."""
    batch = {
        "end_to_end_latency_s": 0.1,
        "part1_inference_time_s": 0.02,
        "part2_inference_time_s": 0.03,
        "network_time_s": 0.01,
        "intermediate_data_size_bytes": 1000.0,
    }
    read = {"model_name": "net", "split_index": 1, "system_inference_throughput_imgs_per_s": 2.0}
    return [json.dumps(read | {"average_metrics_per_batch": batch}).encode()]


def pipeedge_seed() -> list[bytes]:
    """One model of two layers."""
    model = {
        "layers": 2,
        "mem_MB": [1.0, 2.0],
        "parameters_in": 10,
        "parameters_out": [5, 3],
    }
    return [yaml.safe_dump({"net": model}).encode()]


def links_seed() -> list[bytes]:
    """A table of two hosts."""
    table = {
        "schema": SCHEMA,
        "hosts": [
            {"name": name, "data_address": f"10.0.0.{number}", "data_port": 29400}
            for number, name in enumerate("ab", start=1)
        ],
        "rounds": [[["a", "b"]]],
        "settings": {},
        "started_unix_ns": 1,
    }
    return [json.dumps(table).encode()]


def logs_seed() -> list[bytes]:
    """A generation, and the times of a session."""
    standing = Standing(0.05, None, 0.1)
    line = Generation(1, (Choice(_PLAN.points[0].id, "endpoint"),), 1.0, standing)
    turn = {"sessions": ["s"], "attempt": 1, "began_unix_ns": 1, "ended_unix_ns": 2}
    return [orjson.dumps(each) + b"\n" for each in (line, turn)]


def answers_seed() -> list[bytes]:
    """What a host that is fit tells."""
    told = raw({})
    return [json.dumps({part: told[part] for part in ("user", "root")}).encode()]

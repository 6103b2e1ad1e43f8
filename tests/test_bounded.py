"""Files from outside are read up to a bound, or refused with what is wrong and what is allowed."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any

import pytest
import yaml

from analysis import links, turns
from analysis.importing.kinds import ImportingError, content
from analysis.links import LinksError
from analysis.prediction import pipeedge
from analysis.prediction.pipeedge import PipeEdgeError
from analysis.run import RunError
from paretopipe_worker import bounded
from paretopipe_worker.bounded import UnreadableFile
from paretopipe_worker.link import traces
from paretopipe_worker.link.traces import TraceError
from paretopipe_worker.plan import fleet, generations, plan, spec, yaml_text
from paretopipe_worker.plan.fleet import FleetError
from paretopipe_worker.plan.generations import GenerationsError
from paretopipe_worker.plan.plan import PlanError
from paretopipe_worker.plan.spec import SpecError
from paretopipe_worker.records import files
from paretopipe_worker.records.files import RecordError
from paretopipe_worker.wheels import house
from paretopipe_worker.wheels.needs import WheelsError
from tests.helpers.fake_plan import make, tiny_table
from tests.helpers.records import HEADER

GIGABYTE = 1 << 30


def sparse(path: Path, begins: bytes = b"") -> Path:
    """A file of a gigabyte that takes no room."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(begins)
    with path.open("r+b") as file:
        file.truncate(GIGABYTE)
    return path


READERS: dict[str, tuple[str, type[Exception], Any]] = {
    "a spec": ("spec.yml", SpecError, spec.read),
    "a plan": ("plan.json", PlanError, plan.read),
    "a trace": ("trace.csv", TraceError, lambda path: traces.read(path, path.name, None)),
    "records": ("records.jsonl", RecordError, lambda path: list(files.read_records(path))),
    "generations": (
        generations.FILE,
        GenerationsError,
        lambda path: generations.read(make(tiny_table()), path.parent),
    ),
    "sessions": (turns.FILE, RunError, lambda path: turns.turns(path.parent)),
    "a table of links": ("links.json", LinksError, lambda path: links.read(path.parent)),
    "a metric file": ("net_split_1_metrics.json", ImportingError, content),
    "a file of PipeEdge": (pipeedge.MODELS, PipeEdgeError, lambda path: pipeedge.read(path.parent)),
    "a wheelhouse": (house.MANIFEST, WheelsError, lambda path: house.read(path.parent)),
}


@pytest.mark.parametrize("kind", READERS)
def test_a_gigabyte_is_refused_by_its_size(kind: str, tmp_path: Path) -> None:
    name, error, read = READERS[kind]
    path = sparse(tmp_path / name)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(error, match="bytes") as refused:
        read(path)
    assert name in str(refused.value) or str(tmp_path) in str(refused.value)
    grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown_mb < 256, f"it took {grown_mb} MB first"


@pytest.mark.parametrize("kind", READERS)
def test_utf_16_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    name, error, read = READERS[kind]
    (tmp_path / name).write_bytes('{"models": 1}\n'.encode("utf-16"))
    with pytest.raises(error):
        read(tmp_path / name)


def test_a_byte_order_mark_changes_nothing(tmp_path: Path) -> None:
    plain = tmp_path / "spec.yml"
    plain.write_text("models: [resnet18]\n", encoding="utf-8")
    marked = tmp_path / "marked.yml"
    marked.write_text("models: [resnet18]\n", encoding="utf-8-sig")
    assert spec.read(marked) == spec.read(plain)
    made = make(tiny_table())
    (tmp_path / "plan.json").write_text(plan.dump(made), encoding="utf-8-sig")
    assert plan.read(tmp_path / "plan.json") == made


def test_what_has_no_size_is_read_no_further_than_the_bound() -> None:
    with pytest.raises(UnreadableFile, match="has 1001 bytes; at most 1000 are read"):
        bounded.data(Path("/dev/zero"), 1000)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "key 'c' is given twice"),
        ('{"a": NaN}', "holds NaN; numbers must be finite"),
        ("[-Infinity]", "holds -Infinity; numbers must be finite"),
        ("[1e999]", "holds 1e999; numbers must be finite"),
        ('{"a": "\\uD800"}', "holds half of a character"),
        ('{"a": 1,\n "b" 2}', "is no JSON: line 2, column 6: Expecting ':' delimiter"),
        ("[" * 100_000, "is nested too deeply"),
        ("9" * 5000, "is no JSON: Exceeds the limit"),
        ("", "is no JSON: line 1, column 1"),
    ],
    ids=range(9),
)
def test_json_that_others_read_in_another_way_is_refused(written: str, said: str) -> None:
    with pytest.raises(UnreadableFile) as refused:
        bounded.parsed(written)
    assert said in str(refused.value)


def test_right_json_is_read_as_python_reads_it() -> None:
    for written in ('{"a": [1, 2.5, -3e4, null, true, "\\ud83d\\ude00"], "b": {}}', "12", '"x"'):
        assert bounded.parsed(written) == json.loads(written)


def test_lines_are_bounded_and_the_last_may_lack_its_end(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"one\ntwo\nlast")
    assert list(bounded.lines(path, 4)) == [b"one\n", b"two\n", b"last"]
    with pytest.raises(UnreadableFile, match="more than 3 bytes"):
        list(bounded.lines(path, 3))


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(9)
)
"""Nine lines that stand for 9 ** 10 words."""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LAUGHS, "its aliases stand for "),
        ("models: &m [resnet18, *m]\n", "this stands for itself"),
        ("models: !!python/object/apply:os.system [touch pwned]\n", "tag:yaml.org,2002:python"),
        ("models: !!python/name:os.system\n", "tag:yaml.org,2002:python"),
        ("models: [a]\nmodels: [b]\n", "key 'models' is given twice"),
        ("models: [a]\n2020-01-01: 1\n", "is neither text nor number"),
        ("? [a]\n: 1\n", "is neither text nor number"),
        ("models: [a]\nseed: .nan\n", "'.nan' is not finite"),
        ("models: [a]\nseed: -.inf\n", "'-.inf' is not finite"),
        ("models: [a]\nseed: 1e999\n", "seed"),
        ("[" * 5000, "nested too deeply"),
        ("models: [a]\n--- \nmodels: [b]\n", "expected a single document"),
        ("models: [a\x00]\n", "special characters are not allowed"),
    ],
    ids=range(13),
)
def test_yaml_that_is_more_than_data_is_refused(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "spec.yml"
    path.write_text(text, encoding="utf-8")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(SpecError) as refused:
        spec.read(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10, "kB"
    assert str(refused.value).startswith(f"{path}: ")
    assert said in str(refused.value)
    assert not Path("pwned").exists()


def test_small_anchors_stay_allowed(tmp_path: Path) -> None:
    path = tmp_path / "spec.yml"
    path.write_text("models: &m [resnet18]\ndescription: same as &m\n", encoding="utf-8")
    text = "a: &a [1, 2]\nb: *a\nc: [*a, *a]\n"
    assert spec.read(path).models[0].name == "resnet18"
    assert yaml_text.load(text) == yaml.safe_load(text)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_records_hold_finite_numbers_alone(value: str, tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    with files.Writer(path) as writer:
        writer.write(HEADER)
    energy = f'{{"joules": {value}, "reason": null, "source": null, "seconds": 1, "items": 0}}'
    with path.open("a", encoding="utf-8") as file:
        file.write(f'{{"kind": "rest", "energy": {energy}}}\n')
    with pytest.raises(RecordError, match=r"records\.jsonl:2: "):
        list(files.read_records(path))


@pytest.mark.parametrize("variable", ["speed_hint", "memory_mb", "device_emulated"])
@pytest.mark.parametrize("value", ["NaN", "Infinity"])
def test_hosts_have_finite_numbers_alone(variable: str, value: str) -> None:
    host = f'{{"name": "a", "data_address": "10.0.0.1", "{variable}": {value}}}'
    other = '{"name": "b", "data_address": "10.0.0.2"}'
    with pytest.raises(FleetError, match=rf"inventory: 'a': {variable}: "):
        fleet.parse(f"[{host}, {other}]")

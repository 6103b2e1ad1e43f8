"""Sessions in which no host has the whole model: each has the tensors of its own stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from analysis.run import read
from analysis.tables.points import points
from paretopipe_worker.cuts import FIRST, LAST
from paretopipe_worker.model import weights
from paretopipe_worker.plan.plan import program_name, references_name, weights_name
from paretopipe_worker.records.lines import End, PointEnd, Ready
from tests.helpers import shares
from tests.helpers.sessions import Finished, Lab, experiment, lab, of

pytestmark = pytest.mark.slow

WIDE = "tests.helpers.networks:wide"
SPLITS = {"splits": {"cuts": ["2", "3"]}, "window": [2]}


def tight(folder: Path, **keys: Any) -> Lab:
    """A run on hosts neither of which can hold the whole model."""
    limit = {"memory_mb": 0.6}  # all of its tensors are 0.75 MB
    return lab(
        folder,
        experiment(WIDE, **SPLITS, **keys),
        edge=limit,
        server=limit,
    )


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A session between such hosts, at two batch sizes."""
    made = tight(tmp_path_factory.mktemp("lab"), batch=[1, 2])
    found = shares.todo(made)
    [task] = found["sessions"]
    [session] = made.plan.sessions
    made = shares.sent(made, found, session.id)
    return made.run(session.only(task["points"]), task["attempt"])


def test_every_split_that_fits_is_measured_without_the_whole_model_anywhere(
    measured: Finished,
) -> None:
    made, session = measured.lab, measured.session
    splits = {made.plan.point(id).split for id in session.points}
    assert splits == {("2",), ("3",)}
    held = [weights.read_weights(file).keys() for file in made.files.values()]
    assert all(not {"0.weight", "6.weight"} <= names for names in held)
    for end in measured.of(PointEnd):
        assert (end.status, end.reason) == ("ok", None)
        # The source cannot tell by itself, and says so.
        assert end.gate is None
        assert end.output == "exact" or (end.max_relative_error or 1) < 1e-5
    assert {end.status for rank in range(2) for end in measured.of(End, rank)} == {"ok"}


def test_all_ranks_agree_on_the_whole_models_checksum(measured: Finished) -> None:
    whole = {table.weights_sha256 for table in measured.lab.plan.tables}
    for rank in range(2):
        assert {ready.weights_sha256 for ready in measured.of(Ready, rank)} == whole


def test_each_host_is_sent_its_own_tensors_and_the_source_the_references(
    measured: Finished,
) -> None:
    tables = measured.lab.plan.tables
    programs = {program_name(table) for table in tables}
    references = {references_name(table) for table in tables}
    for host, tensors in measured.lab.files.items():
        assert tensors.name != weights_name(tables[0])
        there = {path.name for path in tensors.parent.iterdir()} - {tensors.name}
        assert there == programs | (references if host == "edge" else set())


def test_points_that_fit_nowhere_are_in_the_table_with_the_reason(measured: Finished) -> None:
    table = points(read(measured.lab.results)).set_index("split")
    for split, host in ((FIRST, "edge, rank 0"), (LAST, "server, rank 1")):
        assert set(table.loc[split, "status"]) == {"failed"}
        assert table.loc[split, "reason"].str.startswith(f"{host}: its stage needs ").all()
    assert set(table.loc[["2", "3"], "status"]) == {"ok"}
    assert table.loc[["2", "3"], "gate"].isna().all()


def test_three_hosts_run_a_model_that_none_of_them_nor_two_can_hold(tmp_path: Path) -> None:
    limit = {"memory_mb": 0.45}
    splits = {"cuts": [["1", "3"], ["1", "1"]]}
    made = lab(
        tmp_path,
        experiment(WIDE, splits=splits, window=[2]),
        edge=limit,
        middle=limit,
        server=limit,
    )
    found = shares.todo(made)
    [task] = found["sessions"]
    session = made.plan.session(task["id"])
    assert [made.plan.point(id).split for id in task["points"]] == [("1", "3")]
    made = shares.sent(made, found, session.id)
    held = {host: set(weights.read_weights(file)) for host, file in made.files.items()}
    layers = {host: sorted({name[0] for name in names}) for host, names in held.items()}
    assert layers == {"edge": ["0"], "middle": ["2"], "server": ["4", "6"]}
    done = made.run(session.only(task["points"]), task["attempt"])
    [end] = done.of(PointEnd)
    assert (end.status, end.reason, end.gate) == ("ok", None, None)
    assert end.output == "exact" or (end.max_relative_error or 1) < 1e-5
    whole = {table.weights_sha256 for table in made.plan.tables}
    assert {r.weights_sha256 for rank in range(3) for r in done.of(Ready, rank)} == whole


@pytest.mark.parametrize("which", ["tensors", "references", "program"])
def test_a_file_that_changed_by_one_bit_ends_the_session_with_its_name(
    tmp_path: Path, which: str
) -> None:
    made = tight(tmp_path)
    [session] = made.plan.sessions
    found = shares.todo(made)
    made = shares.sent(made, found, session.id)
    tensors, [table] = made.files["edge"], made.plan.tables
    names = {"references": references_name(table), "program": program_name(table)}
    file = tensors.with_name(names.get(which, tensors.name))
    content = bytearray(file.read_bytes())
    content[8 + int.from_bytes(content[:8], "little") if which != "program" else -2] ^= 1
    file.write_bytes(content)
    edge = made.start(session.only(found["sessions"][0]["points"]), "edge", 2)
    assert edge.communicate(timeout=60)[1] == ""
    [end] = of(End, made.written(session, "edge", 2))
    assert end.status == "failed"
    assert str(end.reason).startswith(f"edge: {file}: ")
    assert len(str(end.reason).splitlines()) == 1

"""A session whose source sends images: each in turn, and each checked against its own output."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from paretopipe_worker.model.tiny import network
from paretopipe_worker.plan import identity, resume
from paretopipe_worker.plan import plan as plans
from paretopipe_worker.records.lines import End, Item, PointEnd
from tests.helpers.sessions import Lab, experiment, lab, only

TINY = "paretopipe_worker.model.tiny:network"


@pytest.fixture
def made(tmp_path: Path) -> Lab:
    """A planned run of a small network that gets images, at two batch sizes."""
    (folder := tmp_path / "photos").mkdir()
    for number, colour in enumerate(((250, 9, 9), (9, 250, 9), (9, 9, 250))):
        Image.new("RGB", (40, 30), colour).save(folder / f"{number}.png")
    torch.save(network().state_dict(), tmp_path / "trained.pt")
    images = {"images": str(folder), "count": 3}
    spec = {"name": TINY, "inputs": images, "weights": str(tmp_path / "trained.pt")}
    return lab(tmp_path, {**experiment(batch=[1, 2]), "models": [spec]})


@pytest.mark.slow
def test_every_image_is_sent_in_turn_and_checked_against_its_own_output(made: Lab) -> None:
    done = made.run(only(made, "2", "@last"))
    ends = done.of(PointEnd)
    assert [(end.status, end.gate, end.output) for end in ends] == [("ok", True, "exact")] * 4
    assert {end.top1_agreement for end in ends} == {1}
    assert len({item.seq % 3 for item in done.of(Item)}) == 3
    assert any("3 images of" in note for note in made.plan.notes)
    # The source alone gets them.
    files = resume.todo(made.plan, made.results.parent / "other")["files"]
    [name] = set(files["edge"]) - set(files["server"])
    assert (made.cache / "programs" / name).is_file()
    assert name == plans.images_file(made.plan.tables[0], Path()).name


@pytest.mark.slow
def test_images_of_another_checksum_end_the_session_before_it_begins(made: Lab) -> None:
    file = plans.images_file(made.plan.tables[0], made.cache / "programs")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    [session] = made.plan.sessions
    with made.start(session, "edge") as stage:
        _, words = stage.communicate(timeout=60)
    assert stage.returncode == 1, words
    *_, end = made.written(session, "edge")
    assert isinstance(end, End)
    assert f"{file}: has other images than the plan's" in str(end.reason)


def test_a_plan_with_other_images_measures_something_else(made: Lab) -> None:
    table = made.plan.tables[0]
    assert len(table.images_sha256) == 64
    assert {t.images_sha256 for t in made.plan.tables} == {table.images_sha256}
    drawn = replace(table, images_sha256="")
    others = replace(made.plan, tables=(drawn, *made.plan.tables[1:]))
    assert identity.digest(others) != identity.digest(made.plan)
    assert plans.read(made.results / "plan.json") == made.plan

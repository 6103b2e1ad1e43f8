"""Models of a person's own: a factory in a file beside the spec, with arguments."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from paretopipe_worker.__main__ import main
from paretopipe_worker.model import zoo
from paretopipe_worker.model.sources import ModelError, Source, default_input
from paretopipe_worker.plan import plan as plans

FLEET = json.dumps(
    [{"name": f"host{n}", "data_address": f"10.0.0.{n}", "data_port": 29500} for n in (1, 2)]
)

NETS = """\
from torch import nn

from parts_of_mine import WIDTH


class Net(nn.Sequential):
    input_shape = (4,)

    def __init__(self, hidden=8, depth=1):
        blocks = [nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU()) for _ in range(depth)]
        super().__init__(nn.Linear(4, hidden), *blocks, nn.Linear(hidden, WIDTH))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A module of a person's own, which imports another beside it."""
    (tmp_path / "nets_of_mine.py").write_text(NETS)
    (tmp_path / "parts_of_mine.py").write_text("WIDTH = 3\n")
    return tmp_path


def test_one_factory_makes_several_models_from_a_file_beside_the_spec(folder: Path) -> None:
    (folder / "spec.yml").write_text(
        "models:\n"
        "  - {name: small, factory: 'nets_of_mine:Net', path: .}\n"
        "  - {name: deep, factory: 'nets_of_mine:Net', path: nets_of_mine.py,\n"
        "     arguments: {hidden: 5, depth: 3}}\n"
    )
    places = ("--results", str(folder / "run"), "--cache", str(folder / "cache"))
    given = ("--experiment", str(folder / "spec.yml"), "--fleet", FLEET, "--run", "run")
    assert main(["prepare", *given, *places]) == 0
    plan = plans.read(folder / "run" / "plan.json")
    crossing = {t.model: [c.tensors[0].shape for c in t.cuts] for t in plan.tables}
    # Each linear layer and each activation is a block of its own.
    assert crossing == {"small": [(1, 8)] * 3, "deep": [(1, 5)] * 7}
    assert main(["prepare", *given, *places]) == 0, "a spec's paths are no part of what is measured"


def test_arguments_that_the_factory_does_not_take_are_named(folder: Path) -> None:
    (folder / "nets_of_mine.py").rename(folder / "other_nets.py")
    source = Source("mine", "other_nets:Net", {"width": 3}, folder)
    with pytest.raises(ModelError, match=r"'mine': .*'width'; .*keyword arguments width and ret"):
        zoo.build(source, seed=0)


def test_a_path_that_is_not_there_is_named(tmp_path: Path) -> None:
    source = Source("mine", "nets_of_mine:Net", path=tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"'mine': path: there is no .*/nowhere; allowed is"):
        default_input(source)


def test_a_module_that_another_one_has_the_name_of_is_not_taken_for_it(folder: Path) -> None:
    for name in ("one", "two"):
        (folder / name).mkdir()
        (folder / name / "same_name.py").write_text(
            NETS.replace("from parts_of_mine import WIDTH\n", "WIDTH = 2\n")
        )
    assert zoo.build(Source("one", "same_name:Net", path=folder / "one"), seed=0)
    with pytest.raises(ModelError, match=r"'same_name' is that of .*/one/same_name.py and not in"):
        zoo.build(Source("two", "same_name:Net", path=folder / "two"), seed=0)

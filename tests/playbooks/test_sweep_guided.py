"""A guided sweep on the local lab ends by itself, and goes on where it was when it is killed."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from paretopipe_worker.records.lines import Header, PointEnd
from tests.helpers.labs import nothing_left, throwaway
from tests.helpers.namespaces import reason_without_namespaces
from tests.helpers.sweeps import Checkout, Running
from tests.helpers.waiting import until

pytestmark = [
    pytest.mark.slow(minutes=1.5),
    pytest.mark.skipif(bool(reason_without_namespaces()), reason=reason_without_namespaces()),
]

RUN = "guided"
EXPERIMENT = """\
models: [paretopipe_worker.model.tiny:network]
strategy: {guided: {epsilon: 1.0, hours: 1}}
phases: {min_items: 20, min_s: 1, max_s: 10, retries: 0}
seed: 5
"""
SOON = ("-e", "session_poll_s=0.3", "-e", "lease_s=4")
"""So that stages end well before a generation that nobody waits for is measured."""


def lines(copy: Checkout) -> list[str]:
    """What was decided so far, line by line."""
    path = copy.results(RUN).folder / "generations.jsonl"
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def start(copy: Checkout) -> Running:
    """Start the sweep, or go on with it."""
    return copy.start_sweep("experiments/of-the-test.yml", RUN, *SOON)


def kill(copy: Checkout, points: int) -> bool:
    """Sweep until so many points are reported, and kill the controller; whether it came so far."""
    running = start(copy)

    def reported() -> bool:
        return running.output.count(" img/s ") >= points or running.process.poll() is not None

    until(reported, f"{points} points", 120)
    alive = running.process.poll() is None
    running.process.kill()
    running.wait()
    return alive


def hold(copy: Checkout, output: str) -> None:
    """Hold that each point was asked for once, measured once, or left out with the reason."""
    *decided, end = map(json.loads, lines(copy))
    assert [line["kind"] for line in decided] == ["generation"] * len(decided)
    assert end["kind"] == "end"
    asked = [choice["point"] for line in decided for choice in line["measure"]]
    assert len(set(asked)) == len(asked)
    measured: Counter[str] = Counter()
    for file in copy.results(RUN).records():
        header = file[0]
        if isinstance(header, Header) and header.rank == 0:
            measured.update(each.point for each in file if isinstance(each, PointEnd))
    assert measured == Counter(asked)
    points = copy.results(RUN).points.set_index("point")
    assert set(points.index[points["status"] == "ok"]) == set(asked)
    rest = points[points["status"] != "ok"]
    assert set(rest["status"]) <= {"skipped"}
    assert rest["reason"].notna().all()
    assert f"ended after generation {len(decided)}: " in output
    assert ("\nleft out, " in output) == bool(len(rest)), output
    nothing_left(copy)


@pytest.fixture
def copy(tmp_path: Path) -> Iterator[Checkout]:
    """A checkout with the experiment."""
    with throwaway(tmp_path / "checkout") as made:
        made.write("experiments/of-the-test.yml", EXPERIMENT)
        yield made


@pytest.mark.must_run
def test_a_guided_sweep_goes_on_in_the_middle_of_a_generation(copy: Checkout) -> None:
    assert kill(copy, points=1)
    [first] = lines(copy)
    done = start(copy).wait().succeeded()
    assert lines(copy)[0] == first
    assert "generation 1: " in done.output, done.output
    hold(copy, done.output)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_guided_sweep_is_killed_again_and_again(copy: Checkout) -> None:
    seed = 6
    print(f"moments are drawn with seed {seed}")
    moments, before = random.Random(seed), list[str]()
    for _ in range(8):
        kill(copy, points=moments.randrange(4))
        assert lines(copy)[: len(before)] == before
        before = lines(copy)
    done = start(copy).wait().succeeded()
    hold(copy, done.output)

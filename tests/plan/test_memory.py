"""Points whose stages do not fit are known before a session starts; hosts get what is theirs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from analysis.run import read
from analysis.tables.points import points
from paretopipe_worker.cuts import FIRST, LAST, CutTable, Footprint
from paretopipe_worker.plan import controller, identity, memory, planner, resume, spec
from paretopipe_worker.plan import plan as plans
from paretopipe_worker.plan.plan import Plan
from paretopipe_worker.plan.refusals import Refusal, told
from paretopipe_worker.plan.sending import Sending, Share
from paretopipe_worker.plan.summary import summary
from tests.helpers.attempts import write
from tests.helpers.tables import HOSTS, table

# The tiny table has three cuts, so four parts; a layer of 5 MB works first and last.
FOOTPRINT = Footprint(
    held=((1_000_000, (0,)), (5_000_000, (0, 3)), (2_000_000, (1,)), (30_000_000, (2,))),
    peaks=(400_000, 300_000, 200_000, 100_000),
)
EDGE, SERVER = HOSTS


def known(batch: int = 1) -> CutTable:
    """The tiny table, with what its parts need."""
    return replace(table(batch=batch), footprint=FOOTPRINT, references_sha256="2" * 64)


def planned(edge_mb: float | None = None, server_mb: float | None = None, **keys: object) -> Plan:
    """A plan of it for hosts that may take so much."""
    hosts = (replace(EDGE, memory_mb=edge_mb), replace(SERVER, memory_mb=server_mb))
    experiment = spec.parse({"models": ["tiny"], "links": ["none"], "window": [2], **keys})
    return planner.make("test", experiment, hosts, [known(batch) for batch in experiment.batch])


def refused_splits(made: Plan, refusals: dict[str, Refusal]) -> set[str]:
    """Where the refused points are cut."""
    return {made.point(point).split[0] for point in refusals}


def test_a_stage_needs_its_tensors_its_peak_and_buffers_for_its_window() -> None:
    needs = {point.split[0]: point.memory_bytes for point in planned().points}
    crossing = known().cuts[1].payload_bytes
    result, given = 40, 4 * 3 * 32 * 32
    assert needs["layer1"] == (
        # Three buffers for results that come back, and one value that waits to be sent.
        8_000_000 + 400_000 + 3 * result + crossing,
        35_000_000 + 200_000 + 3 * crossing + result,
    )
    # Nothing runs on the source: it holds nothing, and what it sends waits where it is.
    assert needs[LAST] == (3 * result, 38_000_000 + 400_000 + 3 * given + result)
    assert needs[FIRST] == (38_000_000 + 400_000, 0)


def test_a_stage_between_two_cuts_needs_what_lies_there_and_an_empty_one_only_its_buffers() -> None:
    (first, second, third), (result,) = (cut.tensors for cut in known().cuts), known().output
    hops = [first, third, (result,)]
    sizes = [sum(tensor.nbytes for tensor in hop) for hop in hops]
    found = memory.needed(known(), ("layer0", "layer2"), hops, window=4)
    assert found == (
        6_000_000 + 400_000 + 5 * sizes[2] + 3 * sizes[0],
        32_000_000 + 300_000 + 5 * sizes[0] + 3 * sizes[1],
        5_000_000 + 100_000 + 5 * sizes[1] + 3 * sizes[2],
    )
    hops = [second, second, (result,)]
    assert (
        memory.needed(known(), ("layer1", "layer1"), hops, 4)[1]
        == 5 * known().cuts[1].payload_bytes
    )
    # The last of three ranks idles: the ring has two.
    assert len(memory.needed(known(), ("layer1", FIRST), [second, (result,)], 4)) == 2
    assert memory.needed(table(), ("layer1",), [second, (result,)], 4) == ()


def test_what_does_not_fit_is_refused_and_many_points_of_one_cause_are_one_line() -> None:
    made = planned(edge_mb=20, batch=[1, 2])
    refusals = memory.refused(made, {})
    assert refused_splits(made, refusals) == {"layer2", FIRST}
    assert len(refusals) == 4
    [line] = told(refusals)
    assert line == (
        "edge, rank 0: 4 points are not measured, since the stage there needs 38.4 MB of memory; "
        "allowed are 20 MB, as memory_mb in the inventory says"
    )
    assert line in summary(made)
    [reason] = {each.reason for each in refusals.values() if "needs 38.4 MB" in each.reason}
    assert reason == (
        "edge, rank 0: its stage needs 38.4 MB of memory; "
        "allowed are 20 MB, as memory_mb in the inventory says"
    )


def test_a_host_allows_the_lesser_of_what_it_has_free_and_what_the_inventory_says() -> None:
    made = planned(edge_mb=20)
    free = {"edge": 7_000_000, "server": None}
    assert refused_splits(made, memory.refused(made, free)) == {"layer1", "layer2", FIRST}
    [line] = told(memory.refused(made, free))
    assert line.endswith("allowed are 7 MB, what the host had free when it was prepared")
    assert "3 points are not measured, since the stage there needs 8.41 to 38.4 MB" in line
    assert memory.refused(made, {"edge": 10**12}).keys() == memory.refused(made, {}).keys()
    assert not memory.refused(planned(), {"edge": None})


def test_memory_does_not_change_what_a_plan_measures() -> None:
    made, other = planned(), planned(edge_mb=20, server_mb=30)
    bare = replace(
        made, tables=(table(),), points=tuple(replace(p, memory_bytes=()) for p in made.points)
    )
    assert identity.digest(made) == identity.digest(other) == identity.digest(bare)


def test_refused_points_are_recorded_once_and_the_rest_is_left_to_measure(tmp_path: Path) -> None:
    made = planned(edge_mb=20)
    (tmp_path / "plan.json").write_text(plans.dump(made))
    [session] = made.sessions
    refusals = memory.refused(made, {})
    for _ in range(2):
        controller.refuse(made, tmp_path, refusals)
    assert len(list(tmp_path.glob("records/*/*"))) == 1
    found = resume.todo(made, tmp_path, sending=Sending(made, refusals))
    [task] = found["sessions"]
    left = [point for point in session.points if point not in refusals]
    assert (task["points"], task["attempt"]) == (left, 2)
    assert "edge, rank 0: 2 points are not measured, since " in found["text"]
    assert "failed by themselves" not in found["text"]
    write(made, tmp_path, session, 2, ok=left, points=tuple(left))
    after = resume.todo(made, tmp_path)
    assert (after["sessions"], after["failed"]) == ([], 2)
    assert all("edge, rank 0: its stage needs" in line for line in after["failures"])
    table_of_points = points(read(tmp_path)).set_index("point")
    for point, refusal in refusals.items():
        row = table_of_points.loc[point]
        assert (row["status"], row["reason"]) == ("failed", refusal.reason)
    assert set(table_of_points.loc[left, "status"]) == {"ok"}


def test_points_that_fit_after_all_are_measured_when_failed_ones_are_tried_again(
    tmp_path: Path,
) -> None:
    made = planned(edge_mb=20)
    refusals = memory.refused(made, {})
    controller.refuse(made, tmp_path, refusals)
    assert not set(refusals) & set(resume.todo(made, tmp_path)["sessions"][0]["points"])
    again = resume.todo(made, tmp_path, retry_failed=True, sending=Sending(made))
    assert set(again["sessions"][0]["points"]) == set(made.sessions[0].points)
    still = resume.todo(made, tmp_path, retry_failed=True, sending=Sending(made, refusals))
    assert not set(refusals) & set(still["sessions"][0]["points"])


@pytest.fixture
def packed() -> list[Share]:
    """What was packed."""
    return []


def sent(made: Plan, packed: list[Share]) -> dict[str, list[str]]:
    """The files that each host is sent."""

    def pack(whole: str, share: Share) -> str:
        assert whole == "0" * 64 + ".safetensors"
        packed.append(share)
        return f"part{len(packed)}"

    sending = Sending(made, memory.refused(made, {}), pack)
    for session in made.sessions:
        assert sending.add(session).keys() == set(session.placement)
    return sending.files


PROGRAM, WHOLE, REFERENCES = ("1" * 64 + ".json", *(n * 64 + ".safetensors" for n in "02"))


def test_hosts_whose_stages_hold_everything_share_the_file_of_all(packed: list[Share]) -> None:
    made = planned(links=["none", "paper-delay200"])
    assert sent(made, packed) == {"edge": [WHOLE, PROGRAM], "server": [WHOLE, PROGRAM]}
    assert not packed


def test_a_host_is_sent_a_file_of_its_own_stages_and_a_source_of_a_part_the_references(
    packed: list[Share],
) -> None:
    # All on the edge does not fit there; all on the server does.
    made = planned(edge_mb=20, links=["none", "paper-delay200"])
    assert sent(made, packed) == {
        "edge": [PROGRAM, REFERENCES, "part1"],
        "server": [WHOLE, PROGRAM],
    }
    [share] = packed
    assert set(share) == {(PROGRAM, LAST, "layer0"), (PROGRAM, LAST, "layer1")}


def test_no_host_needs_to_hold_the_whole_model(packed: list[Share]) -> None:
    made = planned(edge_mb=9, server_mb=36)
    files = sent(made, packed)
    assert files == {"edge": [PROGRAM, REFERENCES, "part1"], "server": [PROGRAM, "part2"]}
    assert packed == [((PROGRAM, LAST, "layer1"),), ((PROGRAM, "layer1", FIRST),)]

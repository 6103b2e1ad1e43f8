"""Plans are complete, seeded, and honest about what they cannot do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from paretopipe_worker.cuts import FIRST, LAST
from paretopipe_worker.plan import plan as plans
from paretopipe_worker.plan import planner, predict, resume, spec, summary
from paretopipe_worker.plan.fleet import Host
from tests.helpers.tables import HOSTS, make, table


def test_every_combination_is_a_point_of_every_replicate() -> None:
    made = make(replicates=3, backends=["tcp", "rpc"], batch=[1, 8], window=[2, 3])
    assert len(made.sessions) == 3 * 2 * 2
    assert len(made.points) == 2 * 2 * (3 + 2) * 2 * 2
    for session in made.sessions:
        assert len(set(session.points)) == (3 + 2) * 2 * 2
    for replicate in range(3):
        measured = [point for s in made.sessions if s.replicate == replicate for point in s.points]
        assert sorted(measured) == sorted(point.id for point in made.points)


def test_the_endpoints_are_always_measured() -> None:
    splits = {point.split for point in make(splits={"cuts": ["layer1"]}).points}
    assert splits == {(FIRST,), ("layer1",), (LAST,)}


def test_nothing_crosses_at_first_and_the_input_at_last() -> None:
    hops = {point.split[0]: point.hop_bytes for point in make().points}
    assert hops[FIRST] == (0, 0)
    assert hops[LAST] == (3 * 32 * 32 * 4, 40)
    assert hops["layer0"] == (64 * 8 * 8 * 4, 40)


def test_order_is_random_but_the_same_for_a_seed() -> None:
    def orders(seed: int) -> list[Any]:
        made = make(seed=seed, replicates=8)
        return [(s.id, s.points) for s in made.sessions]

    assert orders(1) == orders(1)
    assert orders(1) != orders(2)
    links = [s.link for s in make(seed=1, replicates=8).sessions]
    assert links[::2].count("none") not in (0, 8), "sessions are not shuffled within replicates"


def test_a_point_keeps_its_name_between_runs_and_seeds_of_the_order() -> None:
    ids = {point.id for point in make(seed=1).points}
    assert ids == {point.id for point in make(seed=2, replicates=2).points}
    assert ids.isdisjoint(point.id for point in make(links=[{"name": "x", "rate_mbit": 9}]).points)


def test_deadlines_scale_with_payload_over_rate() -> None:
    deadlines = {(p.link, p.split[0]): p.deadline_s for p in make().points}
    assert deadlines["slow", "layer0"] > deadlines["none", "layer0"]
    assert deadlines["slow", "layer0"] > deadlines["slow", "layer2"]
    huge = planner.make(
        "test",
        spec.parse({"models": ["tiny"], "links": [{"name": "thin", "rate_mbit": 0.1}]}),
        HOSTS,
        [table(batch=512)],
    )
    assert len(huge.points) == 5
    payload_s = 512 * 3 * 32 * 32 * 4 * 8 / 1e5
    assert max(p.deadline_s for p in huge.points) > 10 * payload_s


def test_a_window_of_auto_is_a_point_of_its_own_and_moves_no_other() -> None:
    usual, both = make(), make(window=[3, "auto"])
    chosen = {point.id for point in both.points if point.window == "auto"}
    assert {point.id for point in both.points} - chosen == {point.id for point in usual.points}
    assert len(chosen) == len(usual.points)
    far = make(links=[{"name": "far", "delay_ms": 500}], window=[3, "auto"])
    three, auto = ({p.split[0]: p for p in far.points if p.window == w} for w in (3, "auto"))
    # Many in flight: the last one waits for all the others.
    assert auto[LAST].deadline_s > 3 * three[LAST].deadline_s
    assert auto[FIRST].deadline_s == three[FIRST].deadline_s


def test_sessions_may_take_as_long_as_retries_and_offered_loads_do() -> None:
    def deadline_s(**phases: Any) -> float:
        return max(session.deadline_s for session in make(phases=phases).sessions)

    points, once = 5, deadline_s(retries=0)
    # Two legs of at most 60 s and a warm-up of 5 s, for each point and try.
    assert once > points * 2 * 65
    assert deadline_s(retries=2) > once + points * 2 * 2 * 65
    assert deadline_s(retries=2, cool_down_s=30) >= deadline_s(retries=2) + points * 2 * 2 * 30
    assert deadline_s(retries=0, load={"shares": [0.5, 1.0]}) > once + points * 2 * 60


def test_offered_loads_take_time_by_their_rates() -> None:
    def seconds(**phases: Any) -> float:
        return make(phases=phases).predicted_hours * 3600

    legs_s = 2 * 5 * 10.0
    low = seconds(load={"shares": [0.5], "min_items": 6, "min_s": 10}) - seconds()
    assert legs_s < low < 1.5 * legs_s


def test_conditions_of_either_direction_and_of_tcp_are_part_of_a_point() -> None:
    def ids(**keys: Any) -> set[str]:
        return {point.id for point in make(**keys).points}

    forward, back = ([{"name": "x", way: {"delay_ms": 5}}] for way in ("forward", "back"))
    assert ids(links=forward).isdisjoint(ids(links=back))
    assert ids(links=forward) == ids(links=[{"name": "x", "forward": {"delay_ms": 5.0}}])
    assert ids().isdisjoint(ids(tcp={"congestion_control": "reno"}))


@pytest.mark.parametrize(
    "worse",
    [
        {"rate_mbit": 2},
        {"delay_ms": 80},
        {"loss_percent": 5},
        {"burst_loss_percent": 2, "burst_recovery_percent": 20},
        {"loss_percent": 90},
    ],
    ids=str,
)
def test_a_worse_way_makes_the_deadlines_of_what_goes_there_longer(worse: dict[str, Any]) -> None:
    fair = {"rate_mbit": 20, "delay_ms": 40}

    def deadlines(**keys: Any) -> dict[str, float]:
        link = {"name": "x", "forward": fair, "back": fair, **keys}
        return {point.split[0]: point.deadline_s for point in make(links=[link]).points}

    assert deadlines(forward={**fair, **worse})[LAST] > deadlines()[LAST]
    # Where nothing crosses, nothing changes.
    assert deadlines(forward={**fair, **worse})[FIRST] == deadlines()[FIRST]


def test_a_small_buffer_bounds_what_a_long_way_carries() -> None:
    links = [{"name": "far", "delay_ms": 100}]
    usual, small = (
        {point.split[0]: point.predicted_latency_s for point in made.points}
        for made in (make(links=links), make(links=links, tcp={"max_buffer_bytes": 4096}))
    )
    # 12 KiB, 4 KiB in each round trip of 0.2 s.
    assert small[LAST] - usual[LAST] == pytest.approx(0.6, abs=0.05)


def test_certificates_take_time_of_a_session() -> None:
    slow, fast = (
        make(links=[{"name": "x", "rate_mbit": rate, "delay_ms": 1}], splits={"cuts": ["layer2"]})
        for rate in (0.5, 50)
    )
    # 24 transfers of 680 KiB in all, six times, at 0.5 Mbit/s, before and after.
    assert (slow.predicted_hours - fast.predicted_hours) * 3600 > 60
    assert slow.sessions[0].deadline_s - fast.sessions[0].deadline_s > 240


def test_long_sessions_are_certified_in_between_and_not_too_often() -> None:
    def places(points_s: list[float], **certify: Any) -> tuple[int, ...]:
        made = make(certify=certify)
        return predict.certified_after(made.experiment, made.link("slow"), 2, points_s)

    minutes = [60.0] * 25
    assert places(minutes) == (0, 10, 20, 25)
    assert places(minutes[:10]) == (0, 10)
    assert places(minutes, every_points=7) == (0, 7, 14, 21, 25)
    # A certificate of that link takes more than 20 s: not after every minute.
    assert places(minutes, every_min=1)[1:3] == (4, 8)
    assert places([1.0]) == (0, 1)


def test_certificates_in_between_take_time_of_a_session(tmp_path: Path) -> None:
    few, many = make(), make(certify={"every_points": 1})
    predicted_s = (many.predicted_hours - few.predicted_hours) * 3600
    link = many.link("slow")
    each_s = 1 + predict.certificate_s(link, many.experiment.tcp, 2)
    assert predicted_s == pytest.approx(4 * each_s, abs=4)
    tasks = resume.todo(many, tmp_path)["sessions"]
    seconds = sum(task["predicted_s"] for task in tasks)
    assert seconds == pytest.approx(many.predicted_hours * 3600, abs=4)


@pytest.mark.parametrize(
    ("link", "words"),
    [
        ({"hops": [{"delay_ms": 1}, {"delay_ms": 2}]}, "links[1].hops: 2 hops, but"),
        ({"delay_ms": 1, "return": {"delay_ms": 2}}, "links[1].return: is the same way as back"),
    ],
    ids=["hops", "return"],
)
def test_a_link_that_does_not_fit_the_pipeline_is_refused(link: Any, words: str) -> None:
    with pytest.raises(plans.PlanError) as refused:
        make(links=["none", {"name": "x", **link}])
    assert words in str(refused.value)
    assert "edge > server" in str(refused.value)


def test_a_link_that_follows_a_trace_is_planned_for_its_slowest_segment(tmp_path: Path) -> None:
    (tmp_path / "drive.csv").write_text("time_s,rate_mbit\n0,50\n10,2\n20,0.5\n")

    def drive(**keys: Any) -> plans.Plan:
        link = {"name": "drive", "trace": str(tmp_path / "drive.csv")}
        return make(links=[link], splits={"cuts": ["layer2"]}, **keys)

    made, slow = drive(), make(links=[{"name": "x", "rate_mbit": 0.5}], splits={"cuts": ["layer2"]})
    deadlines = [{p.split: p.deadline_s for p in each.points} for each in (made, slow)]
    assert deadlines[0] == deadlines[1]
    path = tmp_path / "plan.json"
    path.write_text(plans.dump(made))
    assert plans.read(path) == made
    ids = {point.id for point in made.points}
    (tmp_path / "drive.csv").write_text("time_s,rate_mbit\n0,50\n10,2\n20,1\n")
    assert ids.isdisjoint(point.id for point in drive().points)


def test_a_plan_tells_what_does_not_fit_into_a_trace(tmp_path: Path) -> None:
    (tmp_path / "drive.csv").write_text("time_s,delay_ms\n0,400\n0.5,600\n")
    links = [{"name": "drive", "trace": str(tmp_path / "drive.csv")}]
    told = summary.summary(make(links=links, splits={"cuts": ["layer2"]}, phases={"min_s": 0.9}))
    assert "link drive: legs may end before its trace (1 s) has been replayed once" in told
    assert "items of 2 of its 3 points are predicted to take longer than its shortest seg" in told
    calm = summary.summary(make(links=links, splits={"cuts": ["layer2"]}, phases={"min_s": 1}))
    assert "replayed once" not in calm


def test_a_plan_tells_of_links_over_which_nothing_comes_in_time() -> None:
    links = [{"name": "thin", "rate_mbit": 0.001}, {"name": "fair", "rate_mbit": 20}]
    told = summary.summary(make(links=links))
    assert "link thin: all 4 points at which something crosses are predicted to fail: 6 it" in told
    assert "link fair" not in told
    told = summary.summary(make(links=[{"name": "some", "rate_mbit": 0.01}]))
    assert "link some: 2 of the 4 points at which something crosses are predicted to fail" in told
    told = summary.summary(make(links=[{"name": "poor", "back": {"loss_percent": 80}}]))
    assert "link poor: loses 80% of all packets; above 50% TCP hardly moves" in told


def test_predicted_hours_grow_with_the_slowness_of_link_and_host() -> None:
    base = make().predicted_hours
    slow = (HOSTS[0], Host(name="server", data_address="10.0.0.2", speed_hint=50))
    assert make(hosts=slow).predicted_hours > base
    assert make(replicates=4).predicted_hours == pytest.approx(4 * base, rel=0.05)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"splits": {"cuts": ["layer9"]}}, ["splits.cuts[0]", "layer9", "layer0, layer1"]),
        ({"placements": [["edge", "pi9"]]}, ["placements[0][1]", "pi9", "edge, server"]),
    ],
    ids=["cut", "host"],
)
def test_names_that_nothing_has_are_refused(keys: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(plans.PlanError) as refused:
        make(**keys)
    assert all(word in str(refused.value) for word in words), refused.value


def test_hosts_that_cannot_reach_one_another_are_refused_as_a_pipeline() -> None:
    v6 = Host(name="v6", data_address="fd00::1")
    with pytest.raises(plans.PlanError, match="inventory: IPv4 and IPv6"):
        make(hosts=(HOSTS[0], v6))
    with pytest.raises(plans.PlanError, match=r"placements\[1\]: IPv4 and IPv6 .* v6 fd00::1"):
        make(hosts=(*HOSTS, v6), placements=[["edge", "server"], ["edge", "v6"]])


def test_a_long_list_of_cuts_is_not_repeated_in_an_error() -> None:
    experiment = spec.parse({"models": ["tiny"], "splits": {"cuts": ["x" * 10_000]}})
    with pytest.raises(plans.PlanError) as refused:
        planner.make("test", experiment, HOSTS, [table(cuts=300)])
    assert len(str(refused.value)) < 600
    assert "layer39 and 260 more" in str(refused.value)


def test_deadlines_allow_for_the_outages_of_a_trace(tmp_path: Path) -> None:
    def deadlines_s(rows: str) -> dict[str, float]:
        (tmp_path / "x.csv").write_text(f"time_s,rate_mbit\n{rows}")
        made = make(links=[{"name": "x", "trace": str(tmp_path / "x.csv")}])
        return {point.split[0]: point.deadline_s for point in made.points}

    through, with_outages = deadlines_s("0,5\n10,20\n50,20\n"), deadlines_s("0,5\n10,20\n50,0\n")
    for split, deadline_s in through.items():
        # 40 of 90 s nothing passes, after which TCP may wait as long again.
        assert with_outages[split] == pytest.approx(deadline_s * 9 / 5 + 80, abs=0.2)


def test_a_plan_says_which_segments_of_a_long_trace_are_certified(tmp_path: Path) -> None:
    rows = "".join(f"{second},{1 + second / 100}\n" for second in range(1000))
    (tmp_path / "x.csv").write_text(f"time_s,rate_mbit\n{rows}")
    made = make(links=[{"name": "x", "trace": str(tmp_path / "x.csv")}])
    assert "link x: 20 of the 1000 conditions of its trace are certified" in summary.summary(made)
    path = tmp_path / "plan.json"
    path.write_text(plans.dump(made))
    [link] = plans.read(path).experiment.links
    assert plans.read(path) == made
    assert len(link.certified) == 20 and {0, 999} <= set(link.certified)
    assert path.stat().st_size < 300 * 1000

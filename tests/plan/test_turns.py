"""Sessions without a common host run side by side, unless hosts share what is measured."""

from __future__ import annotations

import random
from typing import Any

from paretopipe_worker.plan import turns


def task(name: str, hosts: str, predicted_s: float) -> dict[str, Any]:
    """What a session's turn depends on; each letter is a host."""
    return {"name": name, "ranks": dict.fromkeys(hosts, 0), "predicted_s": predicted_s}


def test_a_host_of_two_sessions_delays_only_those_that_need_it() -> None:
    tasks = [task("one", "ab", 10), task("two", "cd", 100), task("three", "be", 20)]
    assert turns.arrange(tasks, side_by_side=True) == 100
    assert [each["predicted_after_s"] for each in tasks] == [90, 0, 70]
    assert [each["after"] for each in tasks] == [None] * 3
    assert [(each["number"], each["of"]) for each in tasks] == [(1, 3), (2, 3), (3, 3)]
    assert [each["label"] for each in tasks] == ["a > b", "c > d", "b > e"]


def test_where_hosts_share_a_machine_each_session_waits_for_the_one_before() -> None:
    tasks = [task("one", "ab", 10), task("two", "cd", 100), task("three", "be", 20)]
    assert turns.arrange(tasks, side_by_side=False) == 130
    assert [each["predicted_after_s"] for each in tasks] == [120, 20, 0]
    assert [each["label"] for each in tasks] == [""] * 3
    assert [each["after"] for each in tasks] == [
        None,
        {"name": "one", "hosts": ["a", "b"]},
        {"name": "two", "hosts": ["c", "d"]},
    ]


def test_no_session_is_left_of_a_finished_run() -> None:
    assert turns.arrange([], side_by_side=True) == 0
    assert turns.of_hosts([], ["a"]) == {"a": []}


def test_hosts_that_walk_their_sessions_in_order_always_meet() -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    draw, hosts = random.Random(seed), "abcdefgh"
    tasks = [
        task(str(number), "".join(draw.sample(hosts, draw.randint(1, 4))), 1)
        for number in range(60)
    ]
    left = turns.of_hosts(tasks, list(hosts))
    while any(left.values()):
        ready = [
            place
            for place, each in enumerate(tasks)
            if all(left[host] and left[host][0] == place for host in each["ranks"])
        ]
        assert ready, left
        for place in ready:
            for host in tasks[place]["ranks"]:
                left[host].pop(0)

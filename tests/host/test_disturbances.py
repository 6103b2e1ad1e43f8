"""Which states of a host are held to disturb a measurement."""

from __future__ import annotations

from dataclasses import replace

import pytest

from paretopipe_worker.host.health import disturbances
from paretopipe_worker.records.health import Health

TWO_KINDS = {"0 1 2 3": (1800.0, 1800.0), "4 5": (2400.0, 2400.0)}


@pytest.mark.parametrize("threads", [1, 2])
def test_on_a_busy_host_only_what_its_load_cannot_have_used_is_a_disturbance(threads: int) -> None:
    health = Health(wall_over_cpu=1.9, others_cpu=2.4)
    assert disturbances(health, threads, cores=2)
    assert disturbances(health, threads, cores=2, load=2) == ()
    more = replace(health, others_cpu=2.6)
    assert disturbances(more, threads, cores=2, load=2) == (
        "others used 2.60 cores beside the stage, and the background load may use 2 "
        "(0.5 more allowed)",
    )


def test_a_background_load_and_sharing_are_to_slow_a_core() -> None:
    slow = Health(slowed=0.25)
    assert not disturbances(slow, 1, load=1) and not disturbances(slow, 1, shared=True)


@pytest.mark.parametrize(
    ("health", "threads", "said"),
    [
        (Health(wall_over_cpu=1.2), 1, "computing took 1.20"),
        (Health(wall_over_cpu=1.2), 2, None),  # says nothing of two threads
        (Health(wall_over_cpu=1.01, others_cpu=3.9), 1, None),  # beside it, not in its place
        (Health(others_cpu=0.4), 4, None),
        (Health(others_cpu=0.6), 4, "others used 0.60 cores, which with 4 threads"),
        (Health(others_cpu=1.4), 3, None),  # one core was free
        (Health(others_cpu=0.7), 8, "others used 0.70 cores"),
        (Health(governor="performance", policy_mhz={"0 1": (1400, 1800)}), 1, "of cores 0 1 fell"),
        (Health(governor="performance", policy_mhz={"0": (1700, 1800)}), 1, None),
        (Health(governor="performance", policy_mhz=TWO_KINDS), 1, None),
        (Health(governor="ondemand", policy_mhz={"0": (600, 1800)}), 1, None),  # as it should
        (Health(policy_mhz={"0": (600, 1800)}), 1, None),
        (Health(throttled=("hot",)), 4, "the firmware intervened: hot"),
        (Health(throttled=()), 4, None),
        (Health(swapped_pages=256), 4, None),
        (Health(overslept=0.03), 1, "stretching took 3.0% longer than asked for"),
        (Health(overslept=0.03), 4, "stretching took 3.0% longer than asked for"),
        (Health(overslept=0.01), 1, None),
        (Health(slowed=0.25), 1, "items took 25% more CPU time than the fastest quarter of them"),
        (Health(slowed=0.25, governor="performance"), 1, "something slowed the core"),
        (Health(slowed=0.25, governor="ondemand"), 1, None),  # as it should
        (Health(slowed=0.25), 2, None),  # they wait for one another
        (Health(slowed=0.17), 1, None),
        (Health(temperature_c=95.0), 4, None),  # throttling tells whether it mattered
    ],
)
def test_only_what_shapes_a_measurement_is_a_disturbance(
    health: Health, threads: int, said: str | None
) -> None:
    found = disturbances(health, threads, cores=4)
    assert len(found) == (said is not None), found
    assert said is None or said in found[0]

"""Where the time of items goes in real sessions, compared with what is known of them."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis.measures.attribution import attribution, parts, sums
from analysis.measures.clocks import comparisons
from analysis.measures.replicates import replicates
from analysis.run import Run, read
from analysis.tables.points import points
from paretopipe_worker.link.conditions import Condition
from tests.helpers.namespaces import reason_without_namespaces
from tests.helpers.sessions import lab, on_link
from tests.helpers.shaped_link import (
    DATA_PORT,
    connect,
    must_take_ms,
    serve,
    shaped_link,
    transfer_ms,
)

pytestmark = pytest.mark.alone

RATE_MBIT = 20
HEADER_BYTES = 100
"""More than any backend puts before a message; at the rate it takes 0.04 ms."""

# Stages that wait look as if somebody else had their core: once is enough.
PHASES = {"min_items": 12, "min_s": 0.1, "max_s": 20, "retries": 0}


def experiment(model: str, *cuts: str) -> dict[str, Any]:
    """A short experiment of some cuts of one model."""
    return {"models": [model], "phases": PHASES, "splits": {"cuts": list(cuts)}}


def measured(folder: Path, model: str) -> Run:
    """A finished session over loopback."""
    made = lab(folder, experiment(model, "1", "2"))
    made.run(made.plan.sessions[0])
    return read(made.results)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A network that computes for a fraction of a millisecond."""
    return measured(tmp_path_factory.mktemp("tiny"), "paretopipe_worker.model.tiny:network")


@pytest.fixture(scope="module")
def waits(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Stages that wait 20 ms each."""
    return measured(tmp_path_factory.mktemp("waits"), "tests.helpers.synthetic:wait_20_ms")


@pytest.fixture(params=["tiny", "waits"])
def session(request: pytest.FixtureRequest) -> Run:
    """Each of both."""
    run: Run = request.getfixturevalue(request.param)
    return run


def test_the_parts_of_every_item_add_up_to_its_latency(session: Run) -> None:
    added = sums(parts(session.items))
    assert set(added["phase"]) == {"latency", "throughput"}
    source = session.items[session.items["rank"] == 0]
    assert len(added) == source["phase"].isin(["latency", "throughput"]).sum()
    assert (added["attributed_ms"] / added["latency_ms"]).between(0.98, 1.02).all()
    assert (added["least_ms"] >= 0).all(), "two time stamps are in the wrong order"


def test_every_point_has_its_parts_and_is_not_marked(session: Run) -> None:
    table = points(session).set_index("split")
    kinds = ["compute_ms", "serialise_ms", "wire_ms", "queue_ms"]
    assert table.loc[["1", "2", "@last"], kinds].notna().all(axis=None)
    # Nothing crosses where the source does all.
    assert table.loc["@first", ["serialise_ms", "wire_ms"]].isna().all()
    assert table["attribution_ok"].all() and table["attributed_share"].between(0.98, 1.02).all()


def test_wires_by_compared_clocks_are_those_by_the_clock_that_both_hosts_share(
    session: Run,
) -> None:
    # Both processes read one clock here, so that there is a truth to hold the offsets against.
    split = parts(session.items, comparisons(session))
    wires = split[split["sends"]]
    assert len(wires) and wires["bound_ms"].between(0, 5, inclusive="right").all()
    assert ((wires["wire"] - wires["round_wire"]).abs() <= wires["bound_ms"]).all()


def test_known_waits_are_attributed_to_the_rank_that_waits(waits: Run) -> None:
    table = attribution(waits.items, waits.plan, replicates(waits))
    ms = table.set_index(["split", "rank", "kind"])
    # Waits end late on a busy machine, never early.
    for split, rank, waits in (("2", 0, 1), ("2", 1, 1), ("@last", 1, 2), ("@first", 0, 2)):
        assert ms.loc[(split, rank, "compute"), "ms"] >= 20 * waits
    assert ms.loc[("@last", 0, "compute"), "ms"] < 20
    # With three in flight and all the work on the last rank, two of them queue there.
    last = ms.loc["@last"]
    loaded = last["loaded_ms"].drop(index=[(0, "wire"), (1, "wire")])
    assert last.loc[(1, "queue"), "loaded_ms"] > 0.5 * loaded.sum()
    assert last.loc[(1, "queue"), "ms"] < 20


@pytest.fixture(scope="module")
def shaped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Run, dict[int, float]]]:
    """A session over 20 Mbit/s, and the milliseconds that bare transfers take there, by size."""
    folder = tmp_path_factory.mktemp("shaped")
    with shaped_link(folder) as link:
        for rank in (0, 1):
            done = link.apply(Condition(rate_mbit=RATE_MBIT), rank=rank)
            assert isinstance(done, dict), done
        asked = experiment("tests.helpers.synthetic:wait_5_ms", "1", "2")
        made = lab(folder / "lab", asked, **on_link(link.hosts))
        sizes = {sum(point.hop_bytes) for point in made.plan.points if point.split[0][0] != "@"}
        link.lease.touch()
        before = bare(link.hosts, sizes)
        made.run(made.plan.sessions[0], sides=[host.entered for host in link.hosts])
        link.lease.touch()
        after = bare(link.hosts, sizes)
        yield (
            read(made.results),
            {size: statistics.median(before[size] + after[size]) for size in sizes},
        )


def bare(hosts: Any, sizes: set[int]) -> dict[int, list[float]]:
    """Milliseconds of plain transfers between the hosts."""
    source, sink = hosts
    serve(sink, DATA_PORT)
    with connect(source, sink, DATA_PORT) as connection:
        transfer_ms(connection, 1000)
        return {
            size: [transfer_ms(connection, size + HEADER_BYTES) for _ in range(5)] for size in sizes
        }


@pytest.mark.skipif(bool(reason_without_namespaces()), reason=reason_without_namespaces())
@pytest.mark.must_run
@pytest.mark.long
def test_the_wire_is_what_a_bare_socket_takes_on_the_same_link(
    shaped: tuple[Run, dict[int, float]],
) -> None:
    run, bare_ms = shaped
    table = points(run)
    cuts = table[table["split"].isin(["1", "2"])]
    assert len(cuts) == 2
    for row in cuts.to_dict("records"):
        size = row["payload_bytes"] + row["return_bytes"]
        assert row["wire_ms"] == pytest.approx(bare_ms[size], rel=0.05, abs=0.5), row["split"]
        assert row["wire_ms"] >= 0.95 * must_take_ms(size, RATE_MBIT)
        assert row["attribution_ok"]


@pytest.mark.skipif(bool(reason_without_namespaces()), reason=reason_without_namespaces())
@pytest.mark.must_run
@pytest.mark.long
def test_the_wire_is_attributed_to_the_hop_that_carries_the_bytes(
    shaped: tuple[Run, dict[int, float]],
) -> None:
    run, _ = shaped
    table = attribution(run.items, run.plan, replicates(run), comparisons(run))
    wires = table[table["kind"] == "wire"].set_index(["split", "rank"])
    forward, back = wires.loc[("1", 0)], wires.loc[("1", 1)]
    assert forward["ms"] > 150 and back["ms"] < 5
    # Three in flight on a wire that takes much longer than a stage: what waits, waits for it.
    one = table[(table["split"] == "1") & (table["rank"] == 0)].set_index("kind")["loaded_ms"]
    waiting = one["wire"] + one["send_queue"]
    assert waiting > 0.8 * table.loc[table["split"] == "1", "loaded_ms"].sum()
    assert isinstance(forward["bound_ms"], float) and 0 < forward["bound_ms"] < 5
    assert pd.isna(one).sum() == 0

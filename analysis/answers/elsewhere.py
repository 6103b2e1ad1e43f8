"""Where to split over a link that was never measured: predictions, and how far they are off."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from analysis.answers.choosing import furthest
from analysis.column import OBJECTIVES
from analysis.prediction.elsewhere import Base, Errors, Link, every_split
from analysis.prediction.exact import Fleet, front, front_of_orders
from paretopipe_worker.cuts import FIRST, LAST
from paretopipe_worker.plan.labels import busy, cuts_of, everything_on, hosts_of, placement_label

MOST_SPLITS = 20_000
"""Most splits of a pipeline that are told or compared one by one."""

LATENCY, THROUGHPUT = "predicted_latency_ms", "predicted_throughput_images_s"


def predicted(base: Base, link: Link) -> dict[str, Any]:
    """What is predicted of a pipeline over a link.

    Returns
    -------
    The columns of its group without ``link``; ``based_on``, the link whose parts it rests on;
    ``latency_error`` and ``throughput_error`` of predictions of that link's points, and
    ``other_links_latency_error`` and ``other_links_throughput_error``, see
    :class:`analysis.prediction.elsewhere.Base`; ``predicted_front``: ``split`` and both predicted
    objectives of all splits on the front, the lowest latency first; ``predicted_best``: its rows
    with the best ``latency`` and ``throughput`` and its ``knee``; ``predicted_splits``: how many
    splits there are; ``predicted_orders``: with three hosts and more, the front over all orders and
    subsets of hosts that begin with the source, with the ``placement`` of each split.
    """
    costs = link.under(base.costs)
    choices = front(costs, base.window)
    rows = [
        _row(base, choice.cuts, choice.latency_ms, choice.throughput_per_s) for choice in choices
    ]
    values = np.array([[row[LATENCY], row[THROUGHPUT]] for row in rows])
    knee = furthest(values, list(OBJECTIVES.values()))
    about = {name: value for name, value in base.about.items() if name != "link"}
    return {
        **about,
        "based_on": base.about["link"],
        "latency_error": base.left_out[0],
        "throughput_error": base.left_out[1],
        "other_links_latency_error": base.others[0],
        "other_links_throughput_error": base.others[1],
        "predicted_front": rows,
        "predicted_best": {"latency": rows[0], "throughput": rows[-1], "knee": rows[knee]},
        "predicted_orders": _orders(base, link) if len(costs.hosts) > 2 else [],
    }


def each_split(base: Base, link: Link) -> list[dict[str, Any]]:
    """What is predicted of every split, in the order of the data.

    Raises
    ------
    analysis.prediction.parts.PredictionError
        When there are more than :data:`MOST_SPLITS`.
    """
    splits = every_split(base.costs, MOST_SPLITS)
    costs = link.under(base.costs)
    rates = costs.throughput_per_s(splits, base.window)
    values = zip(splits.tolist(), costs.latency_ms(splits), rates, strict=True)
    return [_row(base, cuts, float(latency), float(rate)) for cuts, latency, rate in values]


def _row(base: Base, cuts: Any, latency_ms: float, per_s: float) -> dict[str, Any]:
    """One split with both predicted objectives."""
    rate = base.batch * per_s
    return {"split": base.split(cuts), LATENCY: latency_ms, THROUGHPUT: rate}


def _orders(base: Base, link: Link) -> list[dict[str, Any]]:
    """The front over orders and subsets of a pipeline's hosts; the first one stays the source."""
    costs = base.costs
    hosts = range(len(costs.hosts))
    # A host takes what it took at its own rank; so does the software of messages to it.
    ways = [link.forward(costs.hops[max(0, host - 1)]) for host in hosts]
    returns = [None if way is None else link.back(way) for way in costs.back]
    fleet = Fleet(
        places=costs.places,
        hosts=costs.hosts,
        available=(1,) * len(hosts),
        waiting_ms=costs.waiting_ms,
        busy_ms=costs.busy_ms,
        item_ms=costs.item_ms or (0.0,) * len(hosts),
        forward_bytes=costs.forward_bytes,
        return_bytes=costs.return_bytes,
        hop=lambda one, other: ways[other],
        back=lambda sink, source: returns[sink] or ways[sink],
        sources=(0,),
    )
    return [
        {"placement": placement_label(choice.hosts)}
        | _row(base, choice.cuts, choice.latency_ms, choice.throughput_per_s)
        for choice in front_of_orders(fleet, base.window)
    ]


def sentences(found: dict[str, Any]) -> Iterator[str]:
    """What is predicted, and how far predictions were off, in words."""
    best = found["predicted_best"]
    latency, throughput, knee = (best[name] for name in ("latency", "throughput", "knee"))
    if latency is throughput:
        said = f"take {_cut(latency, found)}, the best in both ({_both(latency)})"
    else:
        said = (
            f"the lowest latency has {_cut(latency, found)} ({_both(latency)}), the highest "
            f"throughput {_cut(throughput, found)} ({_both(throughput)})"
        )
        if knee is not latency and knee is not throughput:
            said += f", and the knee between them is {_cut(knee, found)} ({_both(knee)})"
    own = found["latency_error"], found["throughput_error"]
    yield f"Predicted: {said}; leave-one-out error {_percent(own)}."
    others = found["other_links_latency_error"], found["other_links_throughput_error"]
    yield f"It rests on the parts that were measured over link {found['based_on']}" + (
        f"; by them the points over the run's other links are predicted with an error of "
        f"{_percent(others)}."
        if others != (None, None)
        else "."
    )
    if found["predicted_orders"]:
        orders = found["predicted_orders"]
        ends = [(orders[0], "lowest latency"), (orders[-1], "highest throughput")]
        told = ", ".join(
            f"the {name} has {_cut(row, row)} on {row['placement'].replace('>', ' > ')} "
            f"({_both(row)})"
            for row, name in ends
        )
        yield f"Predicted over all orders and subsets of these hosts: {told}."


def named(row: dict[str, Any], about: dict[str, Any]) -> str:
    """A split in words: the host that computes all; or the cuts, and the hosts without a stage."""
    cuts = cuts_of(row["split"]) if row["split"] else ()
    hosts = hosts_of(about["placement"])
    if endpoint := everything_on(cuts, hosts):
        return endpoint
    between = dict.fromkeys(cut for cut in cuts if cut not in (FIRST, LAST))
    idle = [host for host in hosts if host not in busy(cuts, hosts)]
    return " and ".join(between) + (f" (no {', '.join(idle)})" if idle else "")


def _cut(row: dict[str, Any], about: dict[str, Any]) -> str:
    """The same in a sentence."""
    name = named(row, about)
    return name if name.startswith("all on ") else f"a cut behind {name}"


def _both(row: dict[str, Any]) -> str:
    """Both objectives with their units."""
    return f"{row[LATENCY]:.1f} ms, {row[THROUGHPUT]:.1f} images/s"


def _percent(errors: Errors) -> str:
    """Errors of both objectives in per cent."""
    latency, throughput = ("unknown" if e is None else f"{100 * e:.1f} %" for e in errors)
    return f"{latency} in latency, {throughput} in throughput"

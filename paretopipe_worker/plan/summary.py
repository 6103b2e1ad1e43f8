"""What a plan holds and what to know of it, in a few lines for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from paretopipe_worker.plan import abilities, memory, outset, refusals, splits, turns
from paretopipe_worker.plan.experiment import MIN_ITEMS
from paretopipe_worker.plan.labels import placement_label, readable
from paretopipe_worker.plan.plan import Plan
from paretopipe_worker.plan.predict import MOST_LOSS, duration
from paretopipe_worker.plan.strategy import Guided


def summary(plan: Plan) -> str:
    """A few lines for people about what the plan holds."""
    experiment = plan.experiment
    measured = sum(len(session.points) for session in plan.sessions)
    return "\n".join(
        (
            f"{len(plan.points)} points "
            f"({len(_models(plan))} models, {len(experiment.links)} links, "
            f"{len(experiment.backends)} backends), {experiment.replicates} replicates, "
            f"{len(plan.groups)} sessions: {measured} measurements",
            _about_placements(plan),
            *_about_sources(plan),
            *_about_splits(plan),
            f"about {duration(plan.predicted_hours * 3600)} predicted, with compute times taken on "
            "the controller and each host's speed_hint",
            *_about_guided(plan),
            *_about_overlap(plan),
            *(f"NOT MEASURED: {line}" for line in plan.refused),
            *_about_hopeless(plan),
            *_about_losses(plan),
            # What hosts can do, and have free, is known when they are prepared.
            *refusals.told(memory.refused(plan, {}) | abilities.refused(plan, {})),
            *plan.notes,
            *_about_traces(plan),
        )
    )


def _about_overlap(plan: Plan) -> Iterator[str]:
    """A line with the time that sessions take which run side by side, if any can."""
    together_s = turns.sweep_s(plan, side_by_side=True)
    if together_s < turns.sweep_s(plan, side_by_side=False):
        yield (
            f"about {duration(together_s)} where sessions without a common host may run side by "
            "side (side_by_side)"
        )


def _about_guided(plan: Plan) -> Iterator[str]:
    """Lines with what a guided sweep measures at least, and at most."""
    strategy = plan.experiment.strategy
    if not isinstance(strategy, Guided):
        return
    first, hours = outset.first(plan), strategy.guided.hours
    least_s = outset.predicted_s(plan, first)
    ends = sum(why == "endpoint" for why in first.values())
    yield (
        f"guided: from {len(first)} points ({ends} endpoints and a spread), about "
        f"{duration(least_s)} predicted, to all {len(plan.points)}: measures what may be on a "
        "front, until nothing that is left out could be better by more than "
        f"{100 * strategy.guided.epsilon:g} %" + (f", for {hours:g} h at most" if hours else "")
    )
    if hours and least_s > 3600 * hours:
        yield (
            f"strategy.guided.hours: the first generation alone is predicted to take "
            f"{duration(least_s)}; it is measured all the same"
        )


def _models(plan: Plan) -> list[str]:
    """Names of the models that are measured, in the order of the experiment."""
    return list(dict.fromkeys(table.model for table in plan.tables))


def _about_hopeless(plan: Plan) -> Iterator[str]:
    """A line for each link some of whose points are predicted to fail."""
    most_s = plan.experiment.phases.max_s
    for link in plan.experiment.links:
        crossing = [p for p in plan.points if p.link == link.name and any(p.hops)]
        slow = [p for p in crossing if MIN_ITEMS * p.predicted_latency_s > most_s]
        if slow:
            least_s = MIN_ITEMS * min(point.predicted_latency_s for point in slow)
            which = "all" if len(slow) == len(crossing) else f"{len(slow)} of the"
            yield (
                f"link {link.name}: {which} {len(crossing)} points at which something crosses are "
                f"predicted to fail: {MIN_ITEMS} items, the fewest a median is taken of, take them "
                f"{least_s:.0f} s and more, phases.max_s is {most_s:g} s"
            )


def _about_losses(plan: Plan) -> Iterator[str]:
    """A line for each link that loses so many packets that its times cannot be predicted."""
    for link in plan.experiment.links:
        ways = [way for hop in link.hops for way in (hop.forward, hop.back)]
        loss = max(way.mean_loss for way in (*ways, link.return_way or ways[0]))
        if link.timetable is None and loss > MOST_LOSS:
            yield (
                f"link {link.name}: loses {loss:.0%} of all packets; above {MOST_LOSS:.0%} TCP "
                "hardly moves: points may fail, and take longer than predicted"
            )


def _about_traces(plan: Plan) -> Iterator[str]:
    """Lines for links that follow traces: legs and items that do not fit the trace's times."""
    shortest_s = plan.experiment.phases.min_s
    for link in plan.experiment.links:
        if link.timetable is None:
            continue
        period_s, segment_s = link.timetable.period_s, min(link.timetable.durations_s)
        if shortest_s < period_s:
            yield (
                f"link {link.name}: legs may end before its trace ({period_s:g} s) has been "
                f"replayed once: phases.min_s is {shortest_s:g} s"
            )
        if len(link.certified) < (distinct := len(set(link.conditions))):
            yield (
                f"link {link.name}: {len(link.certified)} of the {distinct} conditions of its "
                "trace are certified, the slowest, the fastest and the lossiest among them"
            )
        taken = [point.predicted_latency_s for point in plan.points if point.link == link.name]
        if slow := sum(latency_s > segment_s for latency_s in taken):
            yield (
                f"link {link.name}: items of {slow} of its {len(taken)} points are predicted to "
                f"take longer than its shortest segment ({segment_s:g} s): those that see it "
                "change count for no segment"
            )


def _about_placements(plan: Plan) -> str:
    """A line with the number of placements and of their hosts."""
    placements = list(dict.fromkeys(point.placement for point in plan.points))
    if len(placements) == 1:
        (hosts,) = placements
        return f"1 placement of {len(hosts)} stages: {readable(placement_label(hosts))}"
    sizes = sorted(Counter(map(len, placements)).items())
    each = ", ".join(f"{number} of {stages} stages" for stages, number in sizes)
    return f"{len(placements)} placements: {each}"


def _about_sources(plan: Plan) -> Iterator[str]:
    """A line for each group of sources that share a sink's host."""
    groups = [group for group in plan.groups if len(group) > 1]
    for placements in dict.fromkeys(tuple(lane.placement for lane in group) for group in groups):
        lanes = " and ".join(readable(placement_label(hosts)) for hosts in placements)
        yield f"{len(placements)} sources at the same time: {lanes}"


def _about_splits(plan: Plan) -> Iterator[str]:
    """A line for each number of stages with the number of splits of each model."""
    for stages in sorted({len(point.placement) for point in plan.points}):
        ends = splits.endpoints(stages)
        each = []
        for model in _models(plan):
            found = {
                point.split
                for point in plan.points
                if (point.model, len(point.placement)) == (model, stages)
            }
            tables = plan.tables_of(model)
            number = len(found.difference(ends))
            there_are = max(
                splits.choice(plan.experiment, table, tables, stages).count for table in tables
            )
            of = f" of {there_are:,}" if number < there_are else ""
            each.append(f"{model} {number}{of}")
        yield f"splits into {stages} stages, beside {len(ends)} endpoints: {', '.join(each)}"

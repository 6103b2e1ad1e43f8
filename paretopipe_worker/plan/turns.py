"""When each session of a sweep has its turn.

A session begins when its hosts have ended all sessions that come before it in the plan's order. So
sessions without a common host run side by side, and on each host the order is that of the plan.
Where hosts share something that a session measures, such as the cores of one machine, a cable or an
access point, sessions run one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from paretopipe_worker.plan.plan import Plan, Session
from paretopipe_worker.plan.predict import overhead_s


def arrange(tasks: Sequence[dict[str, Any]], side_by_side: bool) -> float:
    """Give each task its turn; return the predicted seconds of all of them together.

    Parameters
    ----------
    tasks
        Sessions in the plan's order, as :func:`paretopipe_worker.plan.resume.todo` lists them. They
        gain `number`, counted from 1, and `of`, the number of all; `label`, their hosts, where
        some of them are to overlap; `after`, the `name` and `hosts` of the session that must have
        ended on all its hosts before, or None; and `predicted_after_s`, seconds from its predicted
        end to that of the sweep.
    side_by_side
        Whether sessions without a common host may run at the same time.
    """
    free_s: dict[str, float] = {}
    ends_s: list[float] = []
    before: dict[str, Any] | None = None
    for task in tasks:
        if side_by_side:
            begin_s = max(free_s.get(host, 0.0) for host in task["ranks"])
        else:
            begin_s = ends_s[-1] if ends_s else 0.0
        ends_s.append(begin_s + task["predicted_s"])
        free_s.update(dict.fromkeys(task["ranks"], ends_s[-1]))
    total_s = max(ends_s, default=0.0)
    overlap = total_s < sum(task["predicted_s"] for task in tasks)
    for number, (task, end_s) in enumerate(zip(tasks, ends_s, strict=True), start=1):
        task |= {
            "number": number,
            "of": len(tasks),
            "label": " > ".join(task["ranks"]) if overlap else "",
            "after": None if side_by_side else before,
            "predicted_after_s": round(total_s - end_s, 1),
        }
        before = {"name": task["name"], "hosts": list(task["ranks"])}
    return total_s


def of_hosts(tasks: Sequence[dict[str, Any]], hosts: Sequence[str]) -> dict[str, list[int]]:
    """The places in `tasks` of the sessions that each host takes part in, by host."""
    found: dict[str, list[int]] = {host: [] for host in hosts}
    for place, task in enumerate(tasks):
        for host in task["ranks"]:
            found[host].append(place)
    return found


def sweep_s(plan: Plan, side_by_side: bool) -> float:
    """Predicted seconds of all sessions of a plan, as :func:`arrange` arranges them."""
    tasks = [
        {
            "name": group[0].id,
            "ranks": dict.fromkeys(host for lane in group for host in lane.placement),
            "predicted_s": max(session_s(plan, lane) for lane in group),
        }
        for group in plan.groups
    ]
    return arrange(tasks, side_by_side)


def session_s(plan: Plan, session: Session) -> float:
    """Predicted seconds of a session."""
    points_s = [plan.point(point).predicted_s for point in session.points]
    link, ranks = plan.link(session.link), len(session.placement)
    return overhead_s(plan.experiment, link, ranks, points_s) + sum(points_s)

"""``python -m analysis.uncertified results/RUN``: points measured over a link not as asked for.

It prints as JSON, by session, the complete points whose link was off, or was not measured both
before and after them. ``todo --uncertified`` has them measured again.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from analysis.disk import saying_why
from analysis.measures.certificate import certificates
from analysis.measures.legs import TRY
from analysis.measures.replicates import choose, tries
from analysis.run import Run, RunError, read
from paretopipe_worker.plan.plan import PlanError
from paretopipe_worker.records.files import RecordError


@saying_why
def main(arguments: list[str] | None = None) -> int:
    """Print the uncertified points of a run; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.uncertified",
        description="Print the points that count and whose link was not as asked for, by session.",
    )
    parser.add_argument("run", type=Path, help="the run's directory, results/RUN")
    options = parser.parse_args(arguments)
    try:
        print(json.dumps(uncertified(read(options.run))))
    except (RunError, PlanError, RecordError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def uncertified(run: Run) -> dict[str, list[str]]:
    """Find the replicates that count although their link was not certified.

    Returns
    -------
    Ids of points by session.
    """
    chosen = choose(tries(run))
    counted = chosen[chosen["status"] == "ok"].merge(certificates(run), on=TRY)
    off = counted[counted["link_certified"].eq(False).fillna(False)]
    return {str(session): list(group) for session, group in off.groupby("session")["point"]}


if __name__ == "__main__":
    sys.exit(main())

"""``python -m analysis results/RUN``: a run's manifest, tables and figures, in one process."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path

from analysis import manifest, pareto
from analysis.disk import saying_why


@saying_why
def main(arguments: list[str] | None = None) -> int:
    """Write a run's manifest, tables and figures, and print its fronts; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m analysis", description=__doc__)
    parser.add_argument("run", type=Path, help="the run's directory, results/RUN")
    parser.add_argument("--hosts", metavar="FILE", help="as python -m analysis.manifest takes it")
    options = parser.parse_args(arguments)
    told = ["--hosts", options.hosts] if options.hosts else []
    with contextlib.redirect_stdout(sys.stderr):
        if status := manifest.main([str(options.run), *told]):
            return status
    return pareto.main([str(options.run)])


if __name__ == "__main__":
    sys.exit(main())

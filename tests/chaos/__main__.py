"""Inject faults into real sweeps, drawn from a seed, and say what came of each kind.

``python -m tests.chaos [--seed N] [--faults N] [--only KIND ...] [--json]``

Sweeps run in throwaway checkouts, on the local lab and on hosts that are reached by SSH. In each
session of a sweep one fault strikes a host at a moment that is seen in the session's records. What
is lost by it is measured by the next sweep of the same run, which is struck too. After each fault
``invariants.breaches`` says what does not hold. Needs root, sshd and sudo.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import signal
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from tests.chaos.campaign import Struck, torment
from tests.chaos.grounds import GROUNDS
from tests.chaos.kinds import KINDS
from tests.helpers.disks import mount
from tests.helpers.sshd import reason_without_sshd

_FAULTS_OF_A_RUN = 16
_CLONE_NEWNS = 0x00020000
COUNTS = ("injected", "survived", "resumed", "lost", "leftovers", "others")


def main() -> int:
    """Inject the faults and print what came of them; 1 where something did not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of kinds, victims and moments")
    parser.add_argument("--faults", type=int, default=200, help="number of faults")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    if reason := reason_without_sshd():
        print(f"python -m tests.chaos: {reason}", file=sys.stderr)
        return 2
    _own_mounts()
    began_s = time.monotonic()
    struck: list[Struck] = []
    # Who ends it early, also in the background, is told what came of the faults until then.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        for each in _injected(options):
            struck.append(each)
            _tell(len(struck), options.faults, each)
    document = {
        "seed": options.seed,
        "asked": options.faults,
        "faults": len(struck),
        "seconds": round(time.monotonic() - began_s),
        "rows": [_row(name, struck) for name in KINDS],
        "breaches": [breach.text for each in struck for breach in each.found],
    }
    print(json.dumps(document, indent=1) if options.json else _table(document))
    return 1 if document["breaches"] or len(struck) < options.faults else 0


def _own_mounts() -> None:
    """Give this process mounts of its own, which end with it and which nobody else sees."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    mount("--make-rslave", "/")


def _injected(options: argparse.Namespace) -> Iterator[Struck]:
    """Inject the faults, ground by ground."""
    drawn = Random(options.seed)
    allowed = [KINDS[name] for name in options.only]
    chosen = drawn.choices(allowed, [kind.weight for kind in allowed], k=options.faults)
    for ground, opened in GROUNDS.items():
        kinds = deque(kind for kind in chosen if kind.ground == ground)
        if not kinds:
            continue
        with tempfile.TemporaryDirectory(prefix="chaos-") as folder, opened(Path(folder)) as field:
            number = 0
            while kinds:
                number += 1
                mine = deque(kinds.popleft() for _ in range(min(_FAULTS_OF_A_RUN, len(kinds))))
                yield from torment(field, f"chaos{number}", mine, drawn)
                kinds.extend(mine)


def _tell(number: int, of: int, struck: Struck) -> None:
    """Say on stderr what came of a fault."""
    strike = struck.strike
    noted = f", {', '.join(strike.noted)}" if strike.noted else ""
    line = f"{number} of {of}: {strike.told}{noted}: {struck.came} after {struck.seconds:.1f} s"
    print("\n".join([line, *(f"  DOES NOT HOLD: {each.text}" for each in struck.found)]),
          file=sys.stderr, flush=True)  # fmt: skip


def _row(name: str, struck: list[Struck]) -> dict[str, Any]:
    """What came of the faults of a kind.

    Returns
    -------
    ``kind``; the numbers of faults that were ``injected``, and after which the session measured all
    its points (``survived``) or a later sweep did (``resumed``); of points ``lost`` or measured
    twice, of ``leftovers``, and of ``others`` that do not hold; and ``seconds`` from injections to
    the ends of their sessions.
    """
    mine = [each for each in struck if each.strike.kind.name == name]
    whats = [breach.what for each in mine for breach in each.found]
    lost, leftovers = whats.count("lost"), whats.count("leftover")
    return {
        "kind": name,
        "injected": len(mine),
        "survived": sum(each.came == "survived" for each in mine),
        "resumed": sum(each.came == "resumed" for each in mine),
        "lost": lost,
        "leftovers": leftovers,
        "others": len(whats) - lost - leftovers,
        "seconds": round(sum(each.seconds for each in mine)),
    }


def _table(document: dict[str, Any]) -> str:
    """The rows as text, for people."""
    columns = (*COUNTS, "seconds")
    lines = [f"{'kind':22}" + "".join(f"{name:>11}" for name in columns)]
    for row in document["rows"]:
        if row["injected"]:
            cells = "".join(f"{row[name]:>11}" for name in columns)
            lines.append(f"{row['kind']:22}{cells}")
    total = {name: sum(row[name] for row in document["rows"]) for name in COUNTS}
    lines.append(f"{'all':22}" + "".join(f"{total[name]:>11}" for name in COUNTS))
    lines.append(f"{document['faults']} of {document['asked']} faults by seed {document['seed']}, "
                 f"{document['seconds']} s in all")  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

"""Have work take longer by a factor, so that one machine can act as a slower one.

A slower device takes longer to work, but not longer to wait while others have the core. So with one
thread its CPU time is stretched; with several, only one of which reports its CPU time, or with a
device that computes by itself, the time of the work is.
"""

from __future__ import annotations

import torch

from paretopipe_worker.host.timers import wait_until


def stretch(ended_ns: int, factor: float, wall_ns: int, cpu_ns: int | None) -> tuple[int, int]:
    """Wait until work that has ended has taken longer by a factor.

    Parameters
    ----------
    ended_ns
        When it ended (``perf_counter_ns``).
    wall_ns, cpu_ns
        How long it took, and the CPU time of its thread; None where a device did it.

    Returns
    -------
    When the wait ended, and by how much that is late, in nanoseconds.
    """
    own_ns = wall_ns
    if cpu_ns is not None and torch.get_num_threads() == 1:
        # Reading the clocks takes CPU time too, which is not the work's.
        own_ns = min(cpu_ns, wall_ns)
    due_ns = ended_ns + round((factor - 1) * own_ns)
    # Waiting leaves the core to the other stages, which run on devices of their own.
    waited_ns = wait_until(due_ns)
    return waited_ns, waited_ns - due_ns

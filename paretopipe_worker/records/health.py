"""The state of a host during one leg."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import with_config


@with_config(extra="forbid", allow_inf_nan=False)
@dataclass(frozen=True)
class Health:
    """The host during one leg, sampled between items, a few times a second at most.

    A field is null where the host does not report it.

    Parameters
    ----------
    wall_over_cpu
        Wall time of the stage's computation over the CPU time of its thread: in phase `latency` the
        median of the items, in the others the ratio of the sums over all items.
    others_cpu
        Cores used on average by everything but this stage: other processes, the kernel's
        interrupts, other guests of the same machine.
    cpu_mhz
        Lowest, median and highest frequency of the core that had just computed.
    policy_mhz
        Lowest and highest of these frequencies, for each set of cores that share a frequency.
    governor
        The policy by which the kernel chooses the frequency, as the leg began.
    temperature_c
        Highest temperature of any thermal zone.
    throttled
        What the firmware reports as active when the leg began or ended, or as having happened in
        between for the first time since its boot (``vcgencmd get_throttled``): ``under-voltage``,
        ``frequency capped``, ``throttled``, ``hot``.
    swapped_pages
        Pages the host swapped in or out.
    peak_rss_bytes
        Peak resident memory of this process during the leg; null where the kernel cannot reset its
        count.
    gpu_mhz
        Lowest and highest clock of the first GPU (NVML).
    overslept
        Share by which the stretched computation took longer than asked for because waits ended
        late: sum over sum of the items, the shortest items left out. Null where nothing is
        stretched.
    slowed
        Share by which items took more CPU time than the fastest quarter of them (lower quartile):
        in phase `latency` their median, in the others their mean. Null with fewer than 8 items, or
        of less than 1 ms each.
    """

    wall_over_cpu: float | None = None
    others_cpu: float | None = None
    cpu_mhz: tuple[float, float, float] | None = None
    policy_mhz: dict[str, tuple[float, float]] | None = None
    governor: str | None = None
    temperature_c: float | None = None
    throttled: tuple[str, ...] | None = None
    swapped_pages: int | None = None
    peak_rss_bytes: int | None = None
    gpu_mhz: tuple[float, float] | None = None
    overslept: float | None = None
    slowed: float | None = None

"""The columns of ``points.csv`` and ``front.csv``, in order."""

from __future__ import annotations

from collections.abc import Iterator

from analysis.column import IDLE, STAGES, WHOLE, Column, interval, percentiles
from analysis.column import UNMEASURED as _UNMEASURED
from analysis.measures import forward, legs
from analysis.measures.attribution_columns import TOTALS
from analysis.measures.completions import LITTLE_OFF

_UNPROBED = "it was not measured, or follows a trace (see `segments.csv`)"


def _identity() -> Iterator[Column]:
    """What was to be measured, from the plan: never null unless it says so."""
    yield Column("point", "", "Id made from the point's content.", front=True)
    yield Column("model", "", "Model as the experiment names it.", front=True)
    yield Column(
        "split", "", "Cuts of the pipeline joined by `+`; `@first`, `@last`: endpoints.", front=True
    )
    yield Column(
        "position",
        "",
        "Place of the cut in the order of the data: 0 is `@last` (all on the last rank), the "
        "highest `@first` (all on rank 0).",
        front=True,
    )
    yield Column("placement", "", "Hosts by rank, source first, joined by `>`.", front=True)
    yield Column("link", "", "Name of the link profile that was asked for.", front=True)
    yield Column("link_asked", "", "What that profile asks for, by way.", front=True)
    for start, way in (("", "forward, from rank 0 to 1"), ("return_", "back to rank 0")):
        yield Column(
            f"{start}rate_mbit",
            "Mbit/s",
            f"Rate of that profile {way}.",
            "no rate was asked for, or it follows a trace",
            front=True,
        )
        yield Column(
            f"{start}delay_ms",
            "ms",
            f"One-way delay of that profile {way}.",
            "it follows a trace",
            front=True,
        )
    yield Column("backend", "", "How tensors cross the link.", front=True)
    yield Column("batch", "images", "Images in one item.", front=True)
    yield Column("window", "items", "Items in flight in the throughput phase.", front=True)
    yield Column("dtype", "", "Number format of the computation.", front=True)
    yield Column(
        "payload_bytes", "bytes", "Tensor data of one item on its way forward.", front=True
    )
    yield Column("return_bytes", "bytes", "Tensor data of one item on its way back.", front=True)


def _outcome() -> Iterator[Column]:
    """Whether it was measured."""
    yield Column(
        "status",
        "",
        "`ok`: at least one replicate was measured; `failed`: all that were tried failed; "
        "`missing`: none was tried.",
    )
    yield Column(
        "reason",
        "",
        "Why the point, or some of its replicates, has no figures.",
        "every replicate was measured",
    )
    yield Column("replicates", "", "Replicates measured, of which all figures are.", front=True)
    yield Column("tries", "", "Attempts at the point, those of all its replicates together.")
    yield Column(
        "on_front",
        "",
        "No other point of the same model, placement, link, backend, batch, window and dtype is at "
        "least as good in latency and throughput and better in one. Points whose `link_certified` "
        "is false are left off, and beat no other, unless `--uncertified` asks for them.",
    )


def _latency() -> Iterator[Column]:
    """Response latency, one item in flight, and under load."""
    yield Column(
        "latency_items",
        "items",
        "Items of the latency phase, in the replicate that has fewest.",
        _UNMEASURED,
    )
    yield Column(
        "latency_median_ms",
        "ms",
        "Response latency at the source, from input ready to output received, one item in flight: "
        "the median of the items, then the mean over replicates.",
        _UNMEASURED,
        front=True,
    )
    yield from interval("latency_median_{}_ms", "ms", "`latency_median_ms`")
    yield from percentiles("the response latency")
    yield Column(
        "loaded_latency_median_ms",
        "ms",
        "Latency with `window` items in flight: median of the throughput phase's items, then the "
        "mean over replicates. Not comparable with the response latency.",
        _UNMEASURED,
    )
    yield Column(
        "loaded_latency_mean_ms",
        "ms",
        "The same, mean of the items that `throughput_images_s` counts.",
        _UNMEASURED,
    )


def _throughput() -> Iterator[Column]:
    """Images per second, and what ended the phases."""
    yield Column(
        "throughput_items",
        "items",
        "Items of the throughput phase, in the replicate that has fewest.",
        _UNMEASURED,
    )
    yield Column(
        "throughput_images_s",
        "images/s",
        "Images per second in steady state, by completions at the source in the throughput phase: "
        f"{WHOLE}, then the mean over replicates.",
        "a replicate has fewer than two whole windows, see `throughput_note`, or no replicate was "
        "measured",
        front=True,
    )
    yield from interval("throughput_{}_images_s", "images/s", "`throughput_images_s`")
    yield Column(
        "little_ratio",
        "",
        "Items completed per second times the mean latency of the same items over `window_used`: 1 "
        "in steady state where the window is always full (Little's law). Mean over replicates.",
        "there is no throughput",
    )
    yield Column(
        "little_off",
        "",
        f"Whether that is off 1 by more than {LITTLE_OFF:.0%} in any replicate; "
        "`throughput_note` says what it means.",
        "there is no throughput",
        front=True,
    )
    yield Column(
        "throughput_note",
        "",
        "Why a replicate has no throughput, or what speaks against it: the window was not always "
        "full, as where the source itself is the slowest stage, or the leg was not steady.",
        "nothing does",
        front=True,
    )
    for phase in ("latency", "throughput"):
        yield Column(
            f"{phase}_ended_by",
            "",
            f"What ended the {phase} phase: `minimum` (count and time reached) or `maximum` "
            "(time), the latter where any replicate ended so.",
            _UNMEASURED,
        )
        yield Column(
            f"{phase}_short",
            "",
            f"Whether a replicate's {phase} phase has fewer items than the experiment's min_items.",
            _UNMEASURED,
        )


def _stages() -> Iterator[Column]:
    """Where the time of each stage went."""
    for rank in range(STAGES):
        for prefix, phase, how in (
            ("", "latency", "median of the items"),
            ("loaded_", "throughput", "of all items together"),
        ):
            start = f"stage{rank}_{prefix}"
            yield Column(
                f"{start}compute_ms",
                "ms",
                f"Computation of rank {rank}'s stage in the {phase} phase, stretching included: "
                "median of the items, then the mean over replicates.",
                IDLE,
            )
            yield Column(
                f"{start}cpu_ms",
                "ms",
                "CPU time of the computing thread for the same, without stretching.",
                IDLE,
            )
            yield Column(
                f"{start}wall_over_cpu",
                "",
                "Wall time of the computation, without stretching, over that CPU time: "
                f"{how}. Above about 1.05 with one thread, something else had the CPU.",
                f"{IDLE}, or the CPU time is below 0.01 ms",
            )
        yield Column(
            f"stage{rank}_device_emulated",
            "",
            f"Factor by which rank {rank}'s computation was stretched: its CPU time where it "
            "computes with one thread, its wall time where with several; 1 for none.",
        )
    yield Column(
        "device_emulated",
        "",
        "Whether the computation of any host of the placement was stretched.",
        front=True,
    )


def _trust() -> Iterator[Column]:
    """What the figures were checked against."""
    yield Column(
        "crossed",
        "",
        "Whether what was said to cross did: every rank handed the transport at least the bytes "
        "the plan says for its counted items, and none where nothing is to cross; and the network "
        "counted no less than was handed over, and no more than 1.2 times that, 100 bytes for each "
        "message (headers; a phase's closing mark is one, without tensors) and what was "
        "retransmitted. A replicate where this is not so is failed.",
        "the network was not counted, nothing was to cross, or no replicate was measured",
    )
    sent = "all ranks, warm-up included, sum over phases and replicates"
    yield Column(
        "payload_sent_bytes", "bytes", f"Tensor data handed to the transport: {sent}.", _UNMEASURED
    )
    yield Column(
        "wire_sent_bytes",
        "bytes",
        f"What the network counted for it, headers included: {sent}.",
        "it was not counted",
    )
    yield Column(
        "output",
        "",
        "The pipeline's real output against the reference: `exact`, `close` or `unchecked`; the "
        "worst of the replicates.",
        _UNMEASURED,
        front=True,
    )
    yield Column(
        "max_relative_error",
        "",
        "Largest error of that output relative to the reference's largest value.",
        "it was not compared",
        front=True,
    )
    yield Column(
        "gate",
        "",
        "Whether the stages, one after the other on one host, returned exactly what the whole "
        "model returns.",
        "it was not tried",
    )
    for when, measured in (("before", "last before the point"), ("after", "first after it")):
        yield Column(
            f"link_round_trip_{when}_ms",
            "ms",
            f"Round trip of a small message, measured {measured}: median, then the mean over "
            "replicates.",
            _UNPROBED,
        )
        for name, way in (("goodput", "forward"), ("return_goodput", "on the way back")):
            yield Column(
                f"link_{name}_{when}_mbit",
                "Mbit/s",
                f"Tensor data per time of a bulk transfer {way}, measured {measured}, mean over "
                "replicates.",
                _UNPROBED,
            )
        yield Column(
            f"link_transfer_off_{when}_ms",
            "ms",
            f"By how much single transfers, measured {measured}, of 8 to 512 KiB after a pause, "
            "took longer than the round trip and their bytes at the rate asked for: the one that "
            "is furthest out of its tolerance, median of three, mean over replicates.",
            f"{_UNPROBED}, or no rate was asked for",
        )
    yield from _certified()


def _certified() -> Iterator[Column]:
    """Whether the link was what was asked for."""
    yield Column(
        "link_engine",
        "",
        "Who shaped what the hosts sent, all that did: `netem` or, of the kernel as well, `htb` "
        "alone, which keeps a rate but lets what follows a pause be early by the time of a frame; "
        "`relay` in userspace; `none` where nothing was asked of the link.",
        _UNMEASURED,
        front=True,
    )
    yield Column(
        "link_emulated",
        "",
        "Whether a userspace relay shaped the link of any host, in place of the kernel.",
        _UNMEASURED,
        front=True,
    )
    yield Column(
        "link_certified",
        "",
        "Whether the link was what was asked for, when it was measured last before and first after "
        "the point, in all replicates: "
        "round trip at most the larger of 3 ms and 5 % above the sum of the delays and no more "
        "than 0.5 ms below it; goodput within 10 % of the rate times 1448/1514; single transfers "
        "within the larger of 1 ms and 5 % of the measured round trip and their bytes at that "
        "rate (not judged where TCP is to start slowly after idle). Where the link has jitter, "
        "loss, reordering or duplicates, UDP datagrams are judged instead: median round trip "
        "within the larger of 3 ms and 5 %, and loss, each within three standard deviations of "
        "what 400 simulated streams show. A link that follows a trace is held to all of that in "
        "each segment that was certified: one of each condition, of more than 20 a sample with the "
        "slowest, the fastest and the lossiest (`link_asked` says so); and where nothing is to "
        "pass, to that.",
        "nothing was asked of the link, or no replicate was measured",
        front=True,
    )
    yield Column(
        "link_certificate",
        "",
        "What of the link was out of tolerance.",
        "nothing was",
        front=True,
    )
    yield Column(
        "relay_late_p99_ms",
        "ms",
        "How late a relay sent packets during the point, 99th percentile: the worst host, phase "
        "and replicate.",
        "no relay sent any",
    )
    yield Column(
        "link_late",
        "",
        "Whether that is above 2 ms: the link was slower than asked for by as much, at times.",
        "no relay sent any packets",
        front=True,
    )


SECTIONS: dict[str, tuple[Column, ...]] = {
    "What was to be measured": tuple(_identity()),
    "Whether it was": tuple(_outcome()),
    "Latency": tuple(_latency()),
    "Throughput and phases": tuple(_throughput()),
    "Forward latency and clocks": tuple(forward.columns()),
    "Stages": tuple(_stages()),
    "Where the response latency went": TOTALS,
    "Warm-up, window and hosts": tuple(legs.columns()),
    "Checks": tuple(_trust()),
}
COLUMNS: tuple[Column, ...] = tuple(column for section in SECTIONS.values() for column in section)
POINTS: tuple[str, ...] = tuple(column.name for column in COLUMNS)
"""Columns of ``points.csv`` in order."""
FRONT: tuple[str, ...] = tuple(column.name for column in COLUMNS if column.front)
"""Columns of ``front.csv`` in order."""

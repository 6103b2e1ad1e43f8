"""The columns of ``points.csv`` that say what was checked: bytes, outputs, and the link."""

from __future__ import annotations

from collections.abc import Iterator

from analysis.column import ALL, ANY, MEAN, MOST, TOGETHER, TOTAL, UNMEASURED, Column, worst
from analysis.measures.certificate import LATE_MS
from paretopipe_worker.plan.attempts import WIRE_SHARE

_UNPROBED = "it was not measured, or the link follows a trace (see `segments.csv`)"


def bytes_columns() -> Iterator[Column]:
    """Whether the bytes that were to cross the network did."""
    yield Column(
        "crossed",
        "",
        "Whether the bytes that were to cross did. Every rank handed the transport the bytes that "
        "the plan says for its items, where they are compressed no more than that, and none where "
        "nothing is to cross. The "
        "network counted no less than was handed over, and no more than the sum of "
        f"{WIRE_SHARE:g} times that, 100 bytes for each message (headers; the mark that ends a leg "
        "is a message without tensors), and what was retransmitted. A replicate where this does "
        "not hold is failed.",
        "the network was not counted, nothing was to cross, or no replicate was measured",
        over=ALL,
    )
    sent = "all ranks, warm-up included, sum over legs and replicates"
    yield Column(
        "payload_sent_bytes",
        "bytes",
        f"Tensor data handed to the transport, as it was packed: {sent}.",
        UNMEASURED,
        over=TOTAL,
    )
    yield Column(
        "wire_sent_bytes",
        "bytes",
        f"What the network counted for it, headers included: {sent}.",
        "it was not counted",
        over=TOTAL,
    )


def output_columns() -> Iterator[Column]:
    """Whether the pipeline computes what the whole model does."""
    yield Column(
        "output",
        "",
        "The pipeline's real output against the reference: `exact`, `close` or `unchecked`; the "
        "worst of the replicates.",
        UNMEASURED,
        front=True,
        over=worst("exact", "close", "unchecked"),
    )
    yield Column(
        "max_relative_error",
        "",
        "Largest error of that output, over all items, relative to the largest value of what the "
        "model returns as torch computes it on the CPU in float32. 0 where all were equal.",
        "it was not compared",
        front=True,
        over=MOST,
    )
    yield Column(
        "top1_agreement",
        "",
        "Share of the different images that were sent whose largest output is of the same class as "
        "the model's in float32: mean over replicates.",
        "inputs are no images, weights are drawn at random, or the output is not one tensor of "
        "`(batch, classes)`",
        front=True,
        over=MEAN,
    )
    yield Column(
        "gate",
        "",
        "Whether the stages, run one after the other on one host, returned exactly what the whole "
        "model returns.",
        "it was not tried, since a source cannot hold the whole model",
        over=ALL,
    )


def probe_columns() -> Iterator[Column]:
    """What the stages measured of their link, before the point and after it."""
    for when, measured in (("before", "last before the point"), ("after", "first after it")):
        yield Column(
            f"link_round_trip_{when}_ms",
            "ms",
            f"Round trip of a small message, measured {measured}: median, then the mean over "
            "replicates.",
            _UNPROBED,
            over=MEAN,
        )
        for name, way in (
            ("goodput", "forward, over the slowest hop"),
            ("return_goodput", "on the way back"),
        ):
            yield Column(
                f"link_{name}_{when}_mbit",
                "Mbit/s",
                f"Tensor data per time of a bulk transfer {way}, measured {measured}, mean over "
                "replicates.",
                _UNPROBED,
                over=MEAN,
            )
        yield Column(
            f"link_transfer_off_{when}_ms",
            "ms",
            "By how much a single transfer of 8 to 512 KiB after a pause took longer than the "
            f"round trip and its bytes at the rate asked for, measured {measured}: median of "
            "three, for the size and hop that is furthest out of its tolerance, mean over "
            "replicates.",
            f"{_UNPROBED}, or no rate was asked for",
            over=MEAN,
        )


def link_columns() -> Iterator[Column]:
    """Whether the link was what was asked for."""
    yield Column(
        "link_engine",
        "",
        "What shaped the traffic of the hosts: `netem`; `htb` alone, which is in the kernel as "
        "well and keeps a rate, but lets the first frame after a pause be early by its own time; "
        "`relay` in userspace; `none` where nothing was asked of the link.",
        UNMEASURED,
        front=True,
        over=TOGETHER,
    )
    yield Column(
        "link_emulated",
        "",
        "Whether a userspace relay, instead of the kernel, shaped the link of any host.",
        UNMEASURED,
        front=True,
        over=ANY,
    )
    yield Column(
        "link_certified",
        "",
        "Whether the link was what was asked for, in all replicates, when it was measured last "
        "before the point and first after it. The round trip may be up to 3 ms or 5 % (the "
        "larger) above the sum of the delays, and up to 0.5 ms below it. Goodput must be within "
        "10 % of the rate times 1448/1514 on every hop of the session's ring. A single transfer "
        "must be within 1 ms or 5 % (the larger) of the measured round trip and its bytes at that "
        "rate; it is not judged where TCP is to start slowly after idle. On a link with jitter, "
        "loss, reordering or duplicates UDP datagrams are judged instead: the median round trip "
        "must be within 3 ms or 5 % (the larger), and the loss must fit, each with three standard "
        "deviations of what 400 simulated streams show. A link that follows a trace must pass all "
        "of that in each segment that was certified: one of each condition, or of more than 20 "
        "conditions a sample with the slowest, the fastest and the lossiest (`link_asked` says "
        "so). In an outage nothing may pass.",
        "nothing was asked of the link, or no replicate was measured",
        front=True,
        over=ALL,
    )
    yield Column(
        "link_certificate",
        "",
        "What of the link was out of tolerance.",
        "nothing was",
        front=True,
        over=TOGETHER,
    )


def relay_columns() -> Iterator[Column]:
    """How late a userspace relay was."""
    yield Column(
        "relay_late_p99_ms",
        "ms",
        "How late a relay sent packets during the point, 99th percentile: the worst host, leg and "
        "replicate.",
        "no relay sent any",
        over=MOST,
    )
    yield Column(
        "link_late",
        "",
        f"Whether that is above {LATE_MS:g} ms: at times the link was slower than asked for by as "
        "much.",
        "no relay sent any packets",
        front=True,
        over=ANY,
    )

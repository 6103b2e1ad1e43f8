"""The columns of ``attribution.csv``, and those of attribution in ``points.csv``."""

from __future__ import annotations

from analysis.column import ALL, MEAN, UNMEASURED, Column
from analysis.measures.ranks import COLUMNS as RANK_COLUMNS

TOLERANCE = 0.02
"""Share by which the sum of an item's parts may differ from its latency."""

_SILENT = "nothing crosses"
_LACKING = f"{UNMEASURED}, or a time stamp is missing"

TOTALS = (
    Column(
        "compute_ms",
        "ms",
        "Computation of all stages for one item, stretching included: from the beginning to the "
        "end of each stage's computation, added over ranks. It is the mean of the middle half of "
        "the latency phase's items by latency, which ignores stragglers as the median does and "
        "adds up, then the mean over replicates. The same holds for the next five columns.",
        _LACKING,
        over=MEAN,
    ),
    Column(
        "serialise_ms",
        "ms",
        "Making the messages ready for the wire: from the end of the computation to the message "
        "being packed.",
        f"{_LACKING}, or {_SILENT}",
        over=MEAN,
    ),
    Column(
        "wire_ms",
        "ms",
        "Crossing all hops, the way back included: from a message's departure, when its first byte "
        "is handed to the kernel, to the arrival of its last byte at the next rank. The clocks' "
        "offsets cancel around the ring.",
        f"{_LACKING}, or {_SILENT}",
        over=MEAN,
    ),
    Column(
        "queue_ms",
        "ms",
        "Waiting: from the arrival of the input to the stage's computation, and from the packing "
        "of the message to its departure.",
        _LACKING,
        over=MEAN,
    ),
    Column(
        "pack_ms",
        "ms",
        "Packing the tensors of messages into a wire format, and unpacking them.",
        f"{_LACKING}, or tensors cross as they are",
        over=MEAN,
    ),
    Column(
        "copy_ms",
        "ms",
        "Copying inputs to devices with memory of their own, and outputs back.",
        f"{_LACKING}, or no stage has such a device",
        over=MEAN,
    ),
    Column(
        "attributed_share",
        "",
        "Sum of an item's parts divided by its latency, for the item of the latency phase whose "
        "ratio is furthest from 1, then the mean over replicates. The six columns above are means "
        "of typical items, whose sum is only about the median latency.",
        _LACKING,
        over=MEAN,
    ),
    Column(
        "attribution_ok",
        "",
        f"Whether in all replicates the parts of every item add up to its latency within "
        f"{TOLERANCE:.0%}, and no time stamp is before the one it follows.",
        UNMEASURED,
        over=ALL,
    ),
)

ATTRIBUTION = (
    *RANK_COLUMNS,
    Column(
        "rank", "", "The rank that spends the time; for a message it is the rank that sends it."
    ),
    Column("host", "", "The host of that rank."),
    Column(
        "kind",
        "",
        "`queue`: from the arrival of the input until the stage takes it; `unpack`: until its "
        "tensors are unpacked; `copy_in`: until they are on the device; `compute`: until the "
        "computation ends, stretching included; `copy_out`: until its result is back from the "
        "device; `pack`: until that is packed; `serialise`: until the message is ready for the "
        "wire; `send_queue`: until it departs; `wire`: until its last byte is at the next rank, "
        "which for the last rank is the source. A rank that sends nothing has no `serialise`, "
        "`send_queue` and `wire`; the two copies, `unpack` and `pack` are there where they were "
        "measured.",
    ),
    Column(
        "ms",
        "ms",
        "That time in the latency phase: mean of the middle half of the items by latency, then the "
        "mean over replicates.",
        "a time stamp is missing; of kind `wire`, the clocks were not compared before and after "
        "the point, or one was set",
    ),
    Column(
        "loaded_ms",
        "ms",
        "The same in the throughput phase, with `window` items in flight. Time in which earlier "
        "messages leave the kernel's buffers after a message has departed counts as its `wire`.",
        "as `ms`",
    ),
    Column(
        "bound_ms",
        "ms",
        "For kind `wire`, whose two ends have clocks of their own: bound of the error of the "
        "clocks' offset, mean over replicates. In the sum of all wires of an item it cancels.",
        "another kind, or as `ms`",
    ),
)

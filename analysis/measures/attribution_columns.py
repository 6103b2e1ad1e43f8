"""The columns of ``attribution.csv``, and the few of them in ``points.csv``, :data:`TOTALS`."""

from __future__ import annotations

from analysis.column import ALL, MEAN, UNMEASURED, Column
from analysis.measures.ranks import COLUMNS as RANK_COLUMNS

TOLERANCE = 0.02
"""By how much the sum of the attributed kinds may differ from the response latency."""

_SILENT = "nothing crosses"
_LACKING = f"{UNMEASURED}, or a time stamp is missing"

TOTALS = (
    Column(
        "compute_ms",
        "ms",
        "Computation of all stages for one item, stretching included: from the beginning to the "
        "end of each stage's computation, added over ranks. Mean of the middle half of the latency "
        "phase's items by latency, which is blind to stragglers like the median and adds up, then "
        "the mean over replicates. So are the three below.",
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
        "Crossing, all hops and the way back: from a message's departure, which is when its first "
        "byte is handed to the kernel, to its last byte at the next rank. Clocks' offsets cancel "
        "around the ring.",
        f"{_LACKING}, or {_SILENT}",
        over=MEAN,
    ),
    Column(
        "queue_ms",
        "ms",
        "Waiting: from input there to the stage's computation, and from message packed to its "
        "departure.",
        _LACKING,
        over=MEAN,
    ),
    Column(
        "attributed_share",
        "",
        "Sum of one item's parts over its latency: of the latency phase's items the one that is "
        "furthest from 1, then the mean over replicates. The four columns above are means of "
        "typical items, and add up to the median latency only about.",
        _LACKING,
        over=MEAN,
    ),
    Column(
        "attribution_ok",
        "",
        f"Whether all items' parts are within {TOLERANCE:.0%} of their latency, and no time stamp "
        "is before the one it follows, in all replicates.",
        UNMEASURED,
        over=ALL,
    ),
)

ATTRIBUTION = (
    *RANK_COLUMNS,
    Column("rank", "", "Whose time it is; a message's is that of the rank that sends it."),
    Column("host", "", "The host of that rank."),
    Column(
        "kind",
        "",
        "`queue`: input there, until the stage's computation begins; `compute`: until it ends, "
        "stretching included; `serialise`: until the message is packed; `send_queue`: until it "
        "departs; `wire`: until its last byte is at the next rank, from the last one at the "
        "source. A rank that sends nothing has the first two.",
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
        "The same in the throughput phase, `window` items in flight. What of earlier messages is "
        "still in the kernel's buffers when one departs is on its `wire`.",
        "as `ms`",
    ),
    Column(
        "bound_ms",
        "ms",
        "Of kind `wire`, whose two ends have clocks of their own: the most by which the clocks' "
        "offset can be off, mean over replicates. In the sum of all wires of an item it cancels.",
        "another kind, or as `ms`",
    ),
)

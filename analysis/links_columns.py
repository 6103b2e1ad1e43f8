"""The columns of a table of links."""

from __future__ import annotations

from analysis.column import Column

_NOTHING = "the pair was not measured"
_NO_DATAGRAMS = "no datagrams were sent"
_NONE_BACK = "no datagram came back"
_FEW = "fewer than 130 datagrams came back"
_NO_BULK = "no bulk data was sent"

DTYPES = {"count": "Int64", "bytes": "Int64", "yes/no": "boolean", "text": "str"}
"""Of columns by their unit; all others hold floats."""

_PAIR = (
    Column("source", "text", "Host that measured its way to the sink."),
    Column("sink", "text", "Host to which the way leads."),
)

LINKS: tuple[Column, ...] = (
    *_PAIR,
    Column("source_address", "text", "Data address of the source."),
    Column("sink_address", "text", "Data address of the sink."),
    Column("started_utc", "text", "When the two hosts had met, by the source's clock.", _NOTHING),
    Column(
        "round_trip_median_ms",
        "ms",
        "Median round trip of the UDP datagrams that came back, at the source, on its clock.",
        _NONE_BACK,
    ),
    Column("round_trip_p5_ms", "ms", "5th percentile of these round trips.", _FEW),
    Column("round_trip_p95_ms", "ms", "95th percentile of these round trips.", _FEW),
    Column(
        "jitter_ms",
        "ms",
        "Mean difference between the round trips of two datagrams that came back one after the "
        "other, without its sign.",
        "fewer than two datagrams came back",
    ),
    Column("datagrams_sent", "count", "Datagrams that the source sent.", _NO_DATAGRAMS),
    Column("datagrams_arrived", "count", "Those of them that the sink received.", _NO_DATAGRAMS),
    Column("datagrams_back", "count", "Those of them that came back.", _NO_DATAGRAMS),
    Column("loss_percent", "%", "Share of the datagrams lost on the way there.", _NO_DATAGRAMS),
    Column(
        "ping_median_ms",
        "ms",
        "Median round trip over TCP of small messages one at a time, on the source's clock; "
        "measured first.",
        _NOTHING,
    ),
    Column(
        "goodput_mbit",
        "Mbit/s",
        "Bulk data over one TCP connection by the sink's clock: what came in the second half of "
        "the time in which data came, over that half. In the first half TCP finds the rate. Of "
        "links of several Gbit/s the processes that send and receive may be the bound.",
        "no bulk data was sent, or all of it came at once",
    ),
    Column(
        "goodput_change_percent",
        "%",
        "By how much the last quarter of the time was faster than the quarter before. Far above 0 "
        "TCP was still getting faster.",
        "no bulk data was sent, or it came at too few times",
    ),
    Column("goodput_bytes", "bytes", "Bulk data that the source sent.", _NO_BULK),
    Column("retransmitted_bytes", "bytes", "What TCP sent again of it.", _NO_BULK),
    Column(
        "side_by_side",
        "yes/no",
        "Whether other pairs were measured at the same time, so that what they share looks slower.",
    ),
    Column("congestion_control", "text", "TCP's congestion control on the source.", _NOTHING),
    Column(
        "slow_start_after_idle",
        "yes/no",
        "Whether TCP on the source forgets the path's rate while a connection is idle.",
        _NOTHING,
    ),
    Column("mss_bytes", "bytes", "Data in one TCP packet.", _NOTHING),
    Column("kernel", "text", "Release of the source's kernel.", _NOTHING),
    Column("machine", "text", "Architecture of the source.", _NOTHING),
    Column("python", "text", "Version of the Python that measured.", _NOTHING),
    Column("paretopipe", "text", "Version of the worker package that measured.", _NOTHING),
    Column(
        "reason",
        "text",
        "Why the pair or a part of it was not measured, and how TCP differs from a sweep's.",
        "there is nothing to be said",
    ),
)

TRANSFERS: tuple[Column, ...] = (
    *_PAIR,
    Column("bytes", "bytes", "Size of each message."),
    Column(
        "idle",
        "yes/no",
        "Whether the connection had been idle before each message, for longer than TCP's "
        "retransmission timeout. Else each follows the answer to the one before.",
    ),
    Column("messages", "count", "How many messages were sent."),
    *(
        Column(
            f"{name}_ms",
            "ms",
            f"{said} time from handing a message to TCP until an answer of one byte was back, on "
            "the source's clock.",
            "the size would have taken too long",
        )
        for name, said in (("least", "Least"), ("median", "Median"), ("most", "Longest"))
    ),
    Column(
        "window_packets",
        "packets",
        "Median of TCP's congestion window right after a message was handed to it.",
        "the size would have taken too long",
    ),
    Column("reason", "text", "Why the size was left out.", "it was not"),
)

"""The first line of a record file, for tests that write their own."""

from __future__ import annotations

from paretopipe_worker.plan import code
from paretopipe_worker.records.lines import SCHEMA, Header

HEADER = Header(
    run="test",
    session="s",
    attempt=1,
    replicate=0,
    host="edge",
    rank=0,
    backend="tcp",
    link="none",
    model="tiny",
    points=("p",),
    plan_sha256="1",
    code_sha256=code.digest(),
    torch="2.13.0",
    device_emulated=1.0,
    link_engine="relay",
    link_emulated=True,
    tcp={"tcp_congestion_control": "cubic"},
    started_unix_ns=1,
    facts={"threads": 1},
    versions={"torch": "x"},
    schema=SCHEMA,
)

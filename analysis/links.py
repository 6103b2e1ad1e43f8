"""``python -m analysis.links RESULTS``: the table of links that ``playbooks/links.yml`` measured.

`read` gives predictions what they need: of each ordered pair of hosts round trip, loss and goodput,
and how long single messages of some sizes took, on a warm connection and on an idle one.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import TypeAdapter, ValidationError

from analysis.column import Column
from analysis.disk import saying_why
from analysis.links_columns import DTYPES, LINKS, TRANSFERS
from paretopipe_worker import bounded
from paretopipe_worker.plan.fleet import NAME
from paretopipe_worker.records.pairs import SCHEMA, Goodput, Pair, Place, Table, Transfer
from paretopipe_worker.usertext import shown

PERCENTILE_DATAGRAMS = 130
"""Datagrams that must have come back for the 5th and 95th percentile (see `analysis.column`)."""

TABLE: TypeAdapter[Table] = TypeAdapter(Table)
PAIR: TypeAdapter[Pair] = TypeAdapter(Pair)
"""Reads what one host found."""

_MOST_BYTES = 64 * bounded.MEGABYTE
"""Size of the largest file that is read; a real one has some hundred thousand bytes."""


class LinksError(ValueError):
    """A folder holds no table of links: the text names the file, and says what is wrong."""


@dataclass(frozen=True)
class Links:
    """A table of links.

    Parameters
    ----------
    table
        What it was to hold.
    links
        One row per ordered pair of hosts, also where nothing was measured; columns `LINKS`.
    transfers
        One row per ordered pair, size and kind of connection; columns `TRANSFERS`.
    """

    table: Table
    links: pd.DataFrame
    transfers: pd.DataFrame


def read(path: Path) -> Links:
    """Read ``links.json`` and ``pairs/SOURCE/SINK.json`` of a folder.

    Raises
    ------
    LinksError
        When there is no table, or it has another schema. What is missing or damaged of a pair is no
        error: its row has the reason.
    """
    file = path / "links.json"
    try:
        table = TABLE.validate_json(bounded.data(file, _MOST_BYTES))
    except FileNotFoundError as error:
        raise LinksError(f"{path}: no table of links (it has no links.json)") from error
    except ValidationError as error:
        raise LinksError(f"{file}: {_fault(error)}") from error
    except (OSError, bounded.UnreadableFile) as error:
        raise LinksError(f"{file}: {error}") from error
    if table.schema != SCHEMA:
        raise LinksError(f"{file}: has schema {table.schema}; this version reads {SCHEMA}")
    places = {place.name: place for place in table.hosts}
    named = {name for pairs in table.rounds for pair in pairs for name in pair}
    # Names of hosts are names of folders here.
    if odd := sorted(name for name in named if name not in places or not NAME.fullmatch(name)):
        raise LinksError(f"{file}: rounds: {shown(odd[0])} is no host of the table")
    links, transfers = [], []
    for one, two in (pair for pairs in table.rounds for pair in pairs):
        for source, sink in ((one, two), (two, one)):
            pair = _pair(path, source, sink)
            links.append(_link(pair, places, table))
            transfers += [_transfer(pair, each) for each in pair.transfers]
    # In the order of the hosts, whatever that of the rounds.
    order = list(places)
    return Links(table, _frame(links, LINKS, order), _frame(transfers, TRANSFERS, order))


def _pair(path: Path, source: str, sink: str) -> Pair:
    """What `source` measured; where that cannot be read, a pair with nothing but the reason."""
    file = path / "pairs" / source / f"{sink}.json"
    try:
        pair = PAIR.validate_json(bounded.data(file, _MOST_BYTES))
    except FileNotFoundError:
        return Pair(source, sink, reasons={"all": "nothing was left: measuring was broken off"})
    except ValidationError as error:
        return Pair(source, sink, reasons={"all": f"{file}: {_fault(error)}"})
    except (OSError, bounded.UnreadableFile) as error:
        return Pair(source, sink, reasons={"all": f"{file}: {error}"})
    if (pair.schema, pair.source, pair.sink) != (SCHEMA, source, sink):
        said = f"{pair.source} to {pair.sink}, schema {pair.schema}"
        return Pair(source, sink, reasons={"all": f"{file}: holds {said}, so it is not used"})
    return pair


def _fault(error: ValidationError) -> str:
    """The first thing that is wrong with a file."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}"


def _link(pair: Pair, places: dict[str, Place], table: Table) -> dict[str, Any]:
    """One row of ``links.csv``."""
    facts = pair.facts
    tcp = facts.tcp if facts else {}
    started = pd.to_datetime(pair.started_unix_ns, utc=True) if pair.started_unix_ns else None
    return {
        "source": pair.source,
        "sink": pair.sink,
        "source_address": places[pair.source].data_address,
        "sink_address": places[pair.sink].data_address,
        "started_utc": started.strftime("%Y-%m-%dT%H:%M:%SZ") if started else None,
        **_packets(pair),
        "ping_median_ms": _median_ms(pair.ping_ns),
        **_bulk(pair.goodput),
        "side_by_side": table.side_by_side,
        "congestion_control": tcp.get("congestion_control"),
        "slow_start_after_idle": _flag(tcp.get("ipv4.tcp_slow_start_after_idle")),
        "mss_bytes": tcp.get("mss_bytes"),
        "kernel": facts.kernel if facts else None,
        "machine": facts.machine if facts else None,
        "python": facts.python if facts else None,
        "paretopipe": facts.paretopipe if facts else None,
        "reason": "; ".join(_reasons(pair)) or None,
    }


def _packets(pair: Pair) -> dict[str, Any]:
    """What the datagrams show."""
    sent = pair.datagrams
    if sent is None:
        return {}
    times = np.array(sent.round_trip_ns) / 1e6
    few = len(times) < PERCENTILE_DATAGRAMS
    return {
        "round_trip_median_ms": np.median(times) if len(times) else None,
        "round_trip_p5_ms": None if few else np.percentile(times, 5),
        "round_trip_p95_ms": None if few else np.percentile(times, 95),
        "jitter_ms": np.abs(np.diff(times)).mean() if len(times) > 1 else None,
        "datagrams_sent": sent.sent,
        "datagrams_arrived": sent.arrived,
        "datagrams_back": len(times),
        "loss_percent": 100 * (sent.sent - sent.arrived) / sent.sent if sent.sent else None,
    }


def _bulk(goodput: Goodput | None) -> dict[str, Any]:
    """What bulk data shows: how fast it came once TCP had had half of the time to find the rate."""
    if goodput is None:
        return {}
    half, quarter = (_rate_mbit(goodput, share) for share in ((0.5, 1.0), (0.75, 1.0)))
    before = _rate_mbit(goodput, (0.5, 0.75))
    return {
        "goodput_mbit": half,
        "goodput_change_percent": 100 * (quarter / before - 1) if quarter and before else None,
        "goodput_bytes": goodput.sent_bytes,
        "retransmitted_bytes": goodput.retransmitted_bytes,
    }


def _rate_mbit(goodput: Goodput, share: tuple[float, float]) -> float | None:
    """How fast data came in a share of the time; None where too little is known of when it came."""
    ns, count = (np.array(values) for values in zip(*goodput.arrivals, strict=True))
    first, last = (int(np.searchsorted(ns, part * ns[-1])) for part in share)
    span_ns = ns[last] - ns[first]
    return float((count[last] - count[first]) * 8e3 / span_ns) if span_ns else None


def _transfer(pair: Pair, each: Transfer) -> dict[str, Any]:
    """One row of ``transfers.csv``."""
    times = [ns / 1e6 for ns in each.ns]
    return {
        "source": pair.source,
        "sink": pair.sink,
        "bytes": each.bytes,
        "idle": each.idle,
        "messages": len(times),
        "least_ms": min(times, default=None),
        "median_ms": _median_ms(each.ns),
        "most_ms": max(times, default=None),
        "window_packets": np.median(each.window_packets) if each.window_packets else None,
        "reason": each.reason,
    }


def _median_ms(ns: tuple[int, ...]) -> float | None:
    """Median of times in ns, as ms; None where there is none."""
    return float(np.median(ns) / 1e6) if ns else None


def _flag(value: object) -> bool | None:
    """A setting of the kernel that is on or off."""
    return None if value is None else value == "1"


def _reasons(pair: Pair) -> Iterator[str]:
    """What is missing of a pair, and why, and what is to be known of it."""
    for part, reason in pair.reasons.items():
        yield reason if part == "all" else f"{part}: {reason}"
    if pair.datagrams and not pair.datagrams.round_trip_ns:
        yield "datagrams: none came back"


def _frame(
    rows: list[dict[str, Any]], columns: tuple[Column, ...], order: list[str]
) -> pd.DataFrame:
    """Rows as a frame with all columns and their dtypes, sorted by the order of the hosts."""
    dtypes = {column.name: DTYPES.get(column.unit, "float64") for column in columns}
    frame = pd.DataFrame.from_records(rows, columns=list(dtypes)).astype(dtypes)
    rank = {name: number for number, name in enumerate(order)}
    by = [frame["source"].map(rank), frame["sink"].map(rank)]
    return frame.iloc[np.lexsort(by[::-1])].reset_index(drop=True) if rows else frame


def write(found: Links, path: Path) -> list[Path]:
    """Write ``links.csv`` and ``transfers.csv``; return the files."""
    files = []
    for name, frame in (("links", found.links), ("transfers", found.transfers)):
        files.append(path / f"{name}.csv")
        frame.to_csv(files[-1], index=False, float_format="%.9g", lineterminator="\n")
    return files


def text(found: Links) -> str:
    """The table for people: a line per ordered pair, then what is missing and why."""
    links = found.links
    shown = pd.DataFrame(
        {
            "from": links["source"],
            "to": links["sink"],
            "round trip ms": links["round_trip_median_ms"].map(_number),
            "5 to 95 %": links["round_trip_p5_ms"].map(_number)
            + " .. "
            + links["round_trip_p95_ms"].map(_number),
            "jitter ms": links["jitter_ms"].map(_number),
            "loss %": links["loss_percent"].map(_number),
            "Mbit/s": links["goodput_mbit"].map(_number),
        }
    )
    keys = pd.MultiIndex.from_frame(links[["source", "sink"]])
    sizes = found.transfers.set_index(["source", "sink"])
    for idle in (False, True):
        for size in sorted(set(sizes["bytes"])):
            times = sizes.loc[sizes["idle"].eq(idle) & sizes["bytes"].eq(size), "median_ms"]
            title = f"{_size(size)} {'idle' if idle else 'warm'} ms"
            shown[title] = times.reindex(keys).map(_number).to_numpy()
    lines = [shown.to_string(index=False)]
    missing = links.dropna(subset="reason")
    lines += [f"{row.source} to {row.sink}: {row.reason}" for row in missing.itertuples()]
    if found.table.side_by_side:
        lines.append(
            "Pairs were measured side by side: what they share looks slower than for one pair."
        )
    return "\n".join(lines)


def _number(value: float) -> str:
    """A number with three figures, or a dash where nothing was measured."""
    if pd.isna(value):
        return "-"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _size(count: int) -> str:
    """A size as people say it."""
    for unit, factor in (("MB", 1_000_000), ("KB", 1_000)):
        if count >= factor:
            return f"{count / factor:g} {unit}"
    return f"{count} B"


@saying_why
def main(arguments: list[str] | None = None) -> int:
    """Make the tables and print the one of links; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.links",
        description="Write links.csv and transfers.csv of a table of links, and print it.",
    )
    parser.add_argument("results", type=Path, help="the table's folder, results/links-TIME")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead")
    options = parser.parse_args(arguments)
    try:
        found = read(options.results)
    except LinksError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    files = [str(file) for file in write(found, options.results)]
    if options.json:
        frames = {"links": found.links, "transfers": found.transfers}
        rows = {
            name: json.loads(frame.to_json(orient="records", double_precision=9))
            for name, frame in frames.items()
        }
        print(json.dumps({**rows, "files": files}, indent=1))
        return 0
    print("\n".join([text(found), "", "written:", *(f"  {file}" for file in files)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())

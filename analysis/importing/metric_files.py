"""Files ``MODEL_split_N_metrics.json`` of the tool that the paper released.

The paper is Masud, Foley, Rajarajan and Lama, "Where to Split? A Pareto-Front Analysis of DNN
Partitioning for Edge Inference" (2026); the tool is cloudsyslab/ParetoPipe, whose clients with
sockets of their own write one such file for each split.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from analysis.column import Column
from analysis.importing.kinds import ImportingError, Kind, Row, content, faults_of
from paretopipe_worker import bounded

LATENCY, THROUGHPUT = "two_clock_latency_mean_ms", "completions_images_s"

_NAME = re.compile(r"(?P<model>.+)_split_(?P<split>\d+)_metrics\.json")

_Time = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
_Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]


class _Batch(BaseModel):
    """Means over the batches that were sent."""

    model_config = ConfigDict(strict=True)

    end_to_end_latency_s: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
    part1_inference_time_s: _Time
    part2_inference_time_s: _Time
    network_time_s: _Time
    intermediate_data_size_bytes: Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]


class _Metrics(BaseModel):
    """One file. Further keys are passed over."""

    model_config = ConfigDict(strict=True, protected_namespaces=())

    model_name: _Name
    split_index: Annotated[int, Field(ge=0, le=1_000_000)]
    static_network_delay_ms: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)] = 0.0
    system_inference_throughput_imgs_per_s: Annotated[
        float, Field(ge=0, le=1e9, allow_inf_nan=False)
    ]
    average_metrics_per_batch: _Batch


def _rows(file: Path, told: Path) -> list[Row]:
    """The one row of a file."""
    try:
        text = content(file)
        read = _Metrics.model_validate_json(text)
        bounded.parsed(text)  # else the last of two keys would win
    except ValidationError as error:
        raise ImportingError("\n".join(faults_of(error, str(file)))) from error
    except bounded.UnreadableFile as error:
        raise ImportingError(f"{file}: {error}") from error
    if named := _NAME.fullmatch(file.name):
        for key, value in (("model", read.model_name), ("split", str(read.split_index))):
            if named[key] != value:
                raise ImportingError(
                    f"{file}: {'model_name' if key == 'model' else 'split_index'}: must be "
                    f"{named[key]!r}, as the file's name says; got {value!r}"
                )
    batch, rate = read.average_metrics_per_batch, read.system_inference_throughput_imgs_per_s
    delay = f"{read.static_network_delay_ms:g} ms of delay said"
    folder = "" if told.parent == Path() else f"{told.parent}, "
    values: dict[str, Any] = {
        LATENCY: 1e3 * batch.end_to_end_latency_s,
        # The tool writes 0 where a single batch was sent, and so no rate is known.
        THROUGHPUT: rate or None,
        "part1_mean_ms": 1e3 * batch.part1_inference_time_s,
        "part2_mean_ms": 1e3 * batch.part2_inference_time_s,
        "receiving_mean_ms": 1e3 * batch.network_time_s,
        "message_bytes": batch.intermediate_data_size_bytes,
        "delay_said_ms": read.static_network_delay_ms,
    }
    return [
        {
            "file": str(told),
            "model": read.model_name,
            "condition": f"{folder}{delay}",
            "split": str(read.split_index),
            "position": read.split_index,
            **values,
        }
    ]


KIND = Kind(
    said='metric files of the tool that the paper "Where to Split?" released',
    warnings=(
        f"{LATENCY} is the difference of two hosts' clocks, and batches are sent without a bound, "
        "so it includes what batches wait for each other; it is no response latency and cannot be "
        "compared with latency_median_ms",
        f"{THROUGHPUT} includes the first batches; delays are what somebody typed, not measured",
    ),
    pattern="*_split_*_metrics.json",
    columns=(
        Column(
            LATENCY,
            "ms",
            "Mean over batches of the time at which the second host was done, on its clock, less "
            "the time at which the first began, on its own; waiting in buffers included.",
        ),
        Column(
            THROUGHPUT,
            "images/s",
            "Images of a batch over the mean time between two completions at the second host.",
            "a single batch was sent",
        ),
        Column("part1_mean_ms", "ms", "Mean time in which the first host computed a batch."),
        Column("part2_mean_ms", "ms", "The same of the second host."),
        Column(
            "receiving_mean_ms",
            "ms",
            "Mean time in which the second host read a message, from when its length had come.",
        ),
        Column("message_bytes", "bytes", "Mean size of a message, as Python pickled it."),
        Column("delay_said_ms", "ms", "Delay that whoever measured it noted down."),
    ),
    objectives={LATENCY: "min", THROUGHPUT: "max"},
    nouns={LATENCY: "latency by two clocks", THROUGHPUT: "throughput"},
    rows=_rows,
)

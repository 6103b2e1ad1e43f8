"""Programs in eight bits: ONNX Runtime's static quantisation, calibrated on known inputs."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch

from paretopipe_worker.cuts import InputSpec
from paretopipe_worker.model.inputs import ITEMS, example_inputs
from paretopipe_worker.model.onnx_graph import MOST_BYTES, Graph, held_bytes
from paretopipe_worker.model.standalone import OnnxError
from paretopipe_worker.model.usercode import RAISED, aside, told

CALIBRATED = 32
"""How many inputs the ranges of values are taken from, where inputs are drawn."""

SETTINGS = "QDQ, int8 weights per channel, int8 activations, ranges by minimum and maximum"
"""How programs are quantised, in words."""


def calibration(
    specs: Sequence[InputSpec], *, seed: int, sent: Sequence[tuple[torch.Tensor, ...]] = ()
) -> list[tuple[torch.Tensor, ...]]:
    """Inputs from which the ranges of values are taken.

    Parameters
    ----------
    sent
        Images that are sent, where there are some; others are drawn, but not those that are sent.
    """
    return list(sent) or [
        example_inputs(specs, seed=seed, index=index) for index in range(ITEMS, ITEMS + CALIBRATED)
    ]


def quantised(graph: Graph, inputs: Sequence[tuple[torch.Tensor, ...]]) -> Graph:
    """Quantise a program once; stages cut out of it take and return float32 as before.

    Parameters
    ----------
    graph
        In float32.
    inputs
        What to calibrate on.

    Raises
    ------
    OnnxError
        When ONNX Runtime is missing, or cannot.
    """
    if (size := held_bytes(graph.model.graph)) > MOST_BYTES:
        raise OnnxError(
            f"its tensors are {size / 1e6:.0f} MB, and ONNX Runtime quantises up to "
            f"{MOST_BYTES / 1e6:.0f} MB"
        )
    try:
        from onnxruntime import quantization

        with aside(), tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "quantised.onnx")
            quantization.quantize_static(
                ir.to_proto(graph.model),
                file,
                _reader(quantization, inputs),
                quant_format=quantization.QuantFormat.QDQ,
                per_channel=True,
                activation_type=quantization.QuantType.QInt8,
                weight_type=quantization.QuantType.QInt8,
            )
            model = ir.from_proto(ir.to_proto(ir.load(file)))
    except RAISED as error:
        raise OnnxError(f"ONNX Runtime cannot quantise it: {told(error)}") from error
    return replace(graph, model=model)


def _reader(quantization: Any, inputs: Sequence[tuple[torch.Tensor, ...]]) -> Any:
    """Hand the inputs over one by one, as the calibrator asks for them."""

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter(inputs)

        def get_next(self) -> dict[str, Any] | None:
            tensors = next(self._left, None)
            if tensors is None:
                return None
            return {f"input_{number}": each.numpy() for number, each in enumerate(tensors)}

    return Reader()

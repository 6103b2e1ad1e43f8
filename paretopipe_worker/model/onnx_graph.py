"""A program as one ONNX graph, exported once, out of which the stages of all splits are cut."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir
import torch
from onnx_ir.convenience import extract
from onnx_ir.passes.common import ClearMetadataAndDocStringPass

from paretopipe_worker.cuts import FIRST, LAST
from paretopipe_worker.model import standalone
from paretopipe_worker.model.partition import Partitioned
from paretopipe_worker.model.standalone import OnnxError

MOST_BYTES = 2_000_000_000
"""Most bytes of tensors in one stage: a file of ONNX is a protobuf message, below 2 GiB."""


@dataclass(frozen=True)
class Graph:
    """A program in ONNX.

    Attributes
    ----------
    model
        It takes the program's inputs and returns every value that crosses a cut, and the outputs.
    names
        What `model` calls the values at which stages begin and end, by the program's names.
    ends
        The program's names for the values at each cut, endpoints included, in order.
    """

    model: ir.Model
    names: Mapping[str, str]
    ends: Mapping[str, tuple[str, ...]]

    def stage(self, before: str, after: str) -> bytes:
        """Cut the stage between two cuts, or endpoints, out; the bytes of an ONNX file.

        It takes ``input_0`` and so on, and returns ``output_0`` and so on, which are those that
        the stage of :func:`paretopipe_worker.model.partition.split` takes and returns.

        Raises
        ------
        OnnxError
            When the exporter has joined what lies before a cut with what lies behind it, or the
            stage is too large for a file.
        """
        taken = [self._value(name) for name in self.ends[before]]
        given = [self._value(name) for name in self.ends[after]]
        begins = [_begin(value) for value in taken]
        # A constant is there without being sent, and what is taken twice comes twice.
        bounds = list(dict.fromkeys(value for value in begins if not _constant(value)))
        wanted = list(dict.fromkeys(value for value in given if value not in bounds))
        try:
            graph = extract(self.model.graph, bounds, wanted) if wanted else _nothing(bounds)
        except ValueError as error:
            raise OnnxError(
                f"the exporter has joined operations before {before} with others behind it: {error}"
            ) from error
        inside = dict(zip(bounds, graph.inputs, strict=True))
        inside |= dict(zip(wanted, graph.outputs, strict=True))
        graph.inputs[:] = _inputs(taken, begins, inside)
        graph.outputs[:] = _outputs(graph, given, inside)
        if (size := held_bytes(graph)) > MOST_BYTES:
            raise OnnxError(
                f"its tensors are {size / 1e6:.0f} MB, and a file of ONNX has room for "
                f"{MOST_BYTES / 1e6:.0f} MB"
            )
        made = ir.Model(graph, ir_version=self.model.ir_version)
        data: bytes = ir.to_proto(made).SerializeToString()
        return data

    def _value(self, name: str) -> ir.Value:
        """The value that the program calls so."""
        wanted = self.names[name]
        ends = itertools.chain(self.model.graph.inputs, self.model.graph.outputs)
        return next(value for value in ends if value.name == wanted)


def held_bytes(graph: ir.Graph) -> int:
    """Bytes of the tensors that a graph holds."""
    held = (value.const_value for value in graph.initializers.values())
    return sum(tensor.nbytes for tensor in held if tensor is not None)


def graph(parts: Partitioned, cuts: Sequence[str], inputs: Sequence[torch.Tensor]) -> Graph:
    """Translate a program to ONNX, with all values that cross these cuts as outputs.

    Since they are outputs, the exporter keeps them as it simplifies the graph.

    Parameters
    ----------
    cuts
        Names of cuts, without endpoints.
    inputs
        What goes in, of the program's shapes.

    Raises
    ------
    PartitionError, OnnxError
        When it cannot be exported; the text names the operator, where that is why.
    """
    program = parts.program
    entry = tuple(value.name for value in program.inputs)
    places = {place.name: place.values for place in parts.places}
    ends = {LAST: entry, **{name: places[name] for name in cuts}, FIRST: program.outputs}
    names = {name: f"input_{number}" for number, name in enumerate(entry)}
    crossing = dict.fromkeys(name for values in ends.values() for name in values)
    given = [name for name in crossing if name not in names]
    returned = {name: f"value_{number}" for number, name in enumerate(given)}
    module = standalone.StageModule(program, parts.tensors, entry, given)
    made = standalone.exported(module, inputs)
    written = standalone.to_onnx(made, list(returned.values()))
    # What the exporter tells of each node is longer than the nodes.
    plain = ClearMetadataAndDocStringPass()(written.model).model
    return Graph(plain, names | returned, ends)


def _begin(value: ir.Value) -> ir.Value:
    """Where a stage begins that takes a value: what others of the graph compute with.

    An output may be a copy of that. In a quantised graph it has been rounded to a scale, to which
    the stage that takes it rounds it, too, so that it computes with whole numbers from the start.
    """
    node = value.producer()
    while node is not None and node.op_type in ("Identity", "DequantizeLinear"):
        (first, *_) = node.inputs
        assert first is not None
        before = first.producer()
        if node.op_type == "DequantizeLinear":
            if before is None or before.op_type != "QuantizeLinear":
                break
            (first, *_) = before.inputs
            assert first is not None
        value, node = first, first.producer()
    return value


def _constant(value: ir.Value) -> bool:
    """Whether a value is the same for all inputs and has been computed already."""
    node = value.producer()
    return value.is_initializer() or (node is not None and node.op_type == "Constant")


def _nothing(bounds: Sequence[ir.Value]) -> ir.Graph:
    """A graph that computes nothing."""
    inputs = [ir.Value(name=value.name) for value in bounds]
    return ir.Graph(inputs, [], nodes=[], opset_imports={"": standalone.OPSET}, name="stage")


def _inputs(
    taken: Sequence[ir.Value],
    begins: Sequence[ir.Value],
    inside: Mapping[ir.Value, ir.Value],
) -> list[ir.Value]:
    """What a stage takes, in order: the values inside it, and in place of what it has, new ones."""
    used: set[ir.Value] = set()
    inputs = []
    for number, (outer, begin) in enumerate(zip(taken, begins, strict=True)):
        value = inside.get(begin)
        if value is None or value in used:
            value = ir.Value()
        used.add(value)
        value.name, value.type, value.shape = f"input_{number}", outer.type, outer.shape
        inputs.append(value)
    return inputs


def _outputs(
    graph: ir.Graph, given: Sequence[ir.Value], inside: Mapping[ir.Value, ir.Value]
) -> list[ir.Value]:
    """What a stage returns, in order.

    What it was given, what it holds and what it returns already it returns as copies.
    """
    used: set[ir.Value] = set()
    outputs = []
    for number, outer in enumerate(given):
        value = inside[outer]
        if value in used or value.producer() is None:
            copy = ir.node("Identity", [value])
            graph.append(copy)
            value = copy.outputs[0]
        used.add(value)
        value.name, value.type, value.shape = f"output_{number}", outer.type, outer.shape
        outputs.append(value)
    return outputs

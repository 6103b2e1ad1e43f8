"""Try a model out on the controller before any host is touched, and say why it cannot be measured.

The whole model runs a few times, and its stages at one cut run once. A model whose outputs differ
between runs would fail at every point of a sweep; it is refused here, and the text names the cause.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
import traceback
from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from paretopipe_worker.cuts import DTYPE_BYTES, FIRST, FLOAT32, CutTable, InputSpec
from paretopipe_worker.model import natives
from paretopipe_worker.model import program as programs
from paretopipe_worker.model.capture import Captured, capture
from paretopipe_worker.model.costs import footprint
from paretopipe_worker.model.dtypes import named
from paretopipe_worker.model.inputs import items, told_inputs
from paretopipe_worker.model.lowering import ALONE
from paretopipe_worker.model.partition import (
    Partitioned,
    check_split,
    find_cuts,
    largest_error,
    run_unchanged,
    split,
    tensors_of,
    whole,
)
from paretopipe_worker.model.program import PartitionError
from paretopipe_worker.model.usercode import RAISED, aside, place, told
from paretopipe_worker.model.verifying import verified
from paretopipe_worker.model.weights import attributes_kept
from paretopipe_worker.model.zoo import runnable

Inputs: TypeAlias = tuple[torch.Tensor, ...]

_RUNS, _ENOUGH_S = 3, 1.0
"""A model is timed at most so many times, and never again after so many seconds in total."""


def cut_table(
    model: nn.Module,
    name: str,
    granularity: str,
    taken: Sequence[InputSpec],
    *,
    seed: int = 0,
    max_tensors: int = 1,
    images: torch.Tensor | None = None,
    dtype: str = FLOAT32,
) -> tuple[CutTable, Captured]:
    """Try a model out, capture it and make its cut table.

    Parameters
    ----------
    model, dtype
        A built model, and the dtype in which it computes; but for float32 its tensors are named so.
    name, granularity, max_tensors, seed, images
        As of :class:`CutTable`, :func:`~paretopipe_worker.model.partition.find_cuts` and
        :func:`paretopipe_worker.model.inputs.items`.
    taken
        What goes into the model, batch first.

    Returns
    -------
    CutTable
        Without checksums of weights and images: other inputs may need further constants.
    Captured
        The program and its tensors.

    Raises
    ------
    PartitionError
        When the model fails as it runs, cannot be captured, returns something else each time, or
        its stages at a cut do not return what it returns; the text names the model and the reason.
    """
    inputs = items(taken, seed=seed, images=images)[:2]
    try:
        with aside():
            captured, error, forward_ns = _tried(model, inputs, dtype)
    except PartitionError as fault:
        raise PartitionError(f"model {name!r}: {fault}") from fault
    parts = Partitioned(captured.program, captured.tensors)
    cuts = find_cuts(parts, granularity, max_tensors)
    table = CutTable(
        model=name,
        granularity=granularity,
        batch=taken[0].shape[0],
        dtype=dtype,
        inputs=tuple(taken),
        cuts=cuts,
        output=parts.specs(captured.program.outputs),
        weights_sha256="",
        graph_sha256=programs.sha256(captured.program),
        forward_ns=forward_ns,
        program_error=error,
        footprint=footprint(parts, [cut.name for cut in cuts]),
        operators=natives.foreign(captured.program),
    )
    return table, captured


def _tried(model: nn.Module, inputs: Sequence[Inputs], dtype: str) -> tuple[Captured, float, int]:
    """Run and capture the model, and check the program and its stages.

    Returns
    -------
    The program, how far it is from the model, and its median time in nanoseconds.
    """
    with attributes_kept(model):
        first = _first_output(model, inputs[0])
    captured = capture(model, inputs[0])
    with attributes_kept(model):
        if largest_error(whole(model, *inputs[0]), first) > 0:
            raise PartitionError(_unsteady(model, inputs[0]))
        found = verified(model, captured, inputs)
        if largest_error(whole(model, *inputs[0]), first) > 0:
            raise PartitionError(_unsteady(model, inputs[0]))
    own = found.captured if dtype == FLOAT32 else named(found.captured, dtype)
    return own, found.error, _timed(own, inputs)


def _timed(captured: Captured, inputs: Sequence[Inputs]) -> int:
    """Check the program's stages at a cut in the middle; its median time in nanoseconds."""
    model = Partitioned(captured.program, captured.tensors)
    if not captured.program.operations:
        raise PartitionError("it computes nothing; allowed are models that do")
    times_ns: list[int] = []
    with torch.inference_mode():
        references = [model.whole(*tensors) for tensors in inputs]
        while len(times_ns) < _RUNS and sum(times_ns) < _ENOUGH_S * 1e9:
            start_ns = time.perf_counter_ns()
            model.whole(*inputs[0])
            times_ns.append(time.perf_counter_ns() - start_ns)
    middle = model.places[len(model.places) // 2].name if model.places else FIRST
    gate = check_split(split(model, [middle]), inputs, references)
    if not gate.exact:
        raise PartitionError(
            f"its stages at {middle} do not return what the whole program returns: they differ by "
            f"{gate.largest_error:.2g} of its largest value"
        )
    return int(statistics.median(times_ns))


def _first_output(model: nn.Module, inputs: Inputs) -> tuple[torch.Tensor, ...]:
    """Run the model for the first time; refuse it if it fails or its output cannot cross a link."""
    try:
        output = run_unchanged(model, *(tensor.clone() for tensor in inputs))
    except PartitionError:
        raise
    except RAISED as error:
        allowed = runnable(model, inputs)
        raise PartitionError(
            f"forward on {told_inputs(inputs)} failed with {told(error)}; {allowed}"
        ) from error
    outputs = tensors_of(output)
    others = [leaf for leaf in tree_leaves(output) if not torch.is_tensor(leaf)]
    if others := [leaf for leaf in others if leaf is not None]:
        raise PartitionError(
            f"forward returns {type(others[0]).__name__} in its {type(output).__name__}; allowed "
            "are tensors, and tuples, lists and dicts of them"
        )
    for each in outputs:
        dtype = str(each.dtype).removeprefix("torch.")
        if dtype not in DTYPE_BYTES or each.layout is not torch.strided:
            raise PartitionError(
                f"forward returns a tensor of {dtype} ({each.layout}), which cannot cross a link; "
                f"allowed are dense ones of {', '.join(DTYPE_BYTES)}"
            )
        if not bool(each.isfinite().all()):
            raise PartitionError(
                "forward returns values that are not finite; allowed are models that return finite "
                "numbers for an input of numbers between -3 and 3"
            )
    return outputs


def _unsteady(model: nn.Module, inputs: Inputs) -> str:
    """The error's text where two runs on one input differ, with the likely causes."""
    watch = _watched(model, inputs)
    causes = [f"it draws random numbers in {name}" for name in watch.drawing]
    causes += [f"it draws random numbers from {name}" for name in watch.drawn_from]
    causes += _training(model)
    if not causes:
        causes = ["it keeps state that is neither parameter nor buffer, or draws random numbers"]
    return (
        f"it returns something else each time it runs on the same input: {'; '.join(causes)}; "
        f"{ALONE}"
    )


def _training(model: nn.Module) -> list[str]:
    """Names the modules that are in training mode although the model was put into eval mode."""
    names = [name or "the model itself" for name, part in model.named_modules() if part.training]
    return [f"{names[0]} and {len(names) - 1} more are in training mode"] if names else []


class _Watch(TorchFunctionMode):
    """Records where a running model draws random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.drawing: list[str] = []
        self.drawn_from: list[str] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one function of torch's."""
        before = torch.get_rng_state()
        result = func(*args, **(kwargs or {}))
        if not self.drawing and not torch.equal(before, torch.get_rng_state()):
            self.drawing = [f"{getattr(func, '__name__', func)} ({_here()})"]
        return result


def _here() -> str:
    """File and line of the model's code that runs now."""
    frames = traceback.extract_stack()
    start = [frame.name for frame in frames].index(_watched.__name__)
    return place(frames[start:]) or "in a module of torch"


def _watched(model: nn.Module, inputs: Inputs) -> _Watch:
    """Run the model once more and record where it draws random numbers."""
    watch = _Watch()
    before = _python_generators()
    with watch:
        whole(model, *inputs)
    after = _python_generators()
    watch.drawn_from = [name for name, state in after.items() if state != before[name]]
    return watch


def _python_generators() -> dict[str, object]:
    """States of the random generators outside torch that a model may draw from."""
    states: dict[str, object] = {"Python's module `random`": random.getstate()}
    if "numpy" in sys.modules:
        states["numpy.random"] = repr(sys.modules["numpy"].random.get_state())
    return states

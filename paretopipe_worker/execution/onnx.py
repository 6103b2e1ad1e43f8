"""Stages that ONNX Runtime executes, from files that the controller exported.

A file has its stage's inputs as ``input_0`` and so on, and its outputs as ``output_0`` and so on.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from paretopipe_worker.cuts import TensorSpec
from paretopipe_worker.execution.api import Assignment, Computed, ExecutionError, Tensors, zeros
from paretopipe_worker.execution.runtimes import CPU, kind
from paretopipe_worker.model import loading
from paretopipe_worker.model.usercode import told

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxRuntime:
    """Runs a session of ONNX Runtime on memory that is bound to it: nothing is copied on the CPU.

    Parameters
    ----------
    session
        An ``onnxruntime.InferenceSession``.
    assignment
        The stage that it is of.
    """

    def __init__(self, session: Any, assignment: Assignment) -> None:
        self._session = session
        self._inputs, self._outputs = assignment.inputs, assignment.outputs
        self._copies = kind(assignment.device) != CPU
        self._used = {each.name for each in session.get_inputs()}
        self._sets: list[_Bound] = []
        self._next = 0

    def begin(self, window: int) -> None:
        """Take memory for the outputs of a window, and one more that may still be read."""
        while len(self._sets) < window + 1:
            self._sets.append(_Bound(self._session, self._outputs))
        del self._sets[window + 1 :]
        self._next = 0

    def run(self, inputs: Tensors) -> Computed:
        """Run the stage, see :class:`paretopipe_worker.execution.api.Executor`."""
        cpu_ns = time.thread_time_ns()
        start_ns = time.perf_counter_ns()
        bound = self._sets[self._next]
        self._next = (self._next + 1) % len(self._sets)
        addresses = [tensor.data_ptr() for tensor in inputs]
        # Binding copies the input to a device. On the CPU it is the address alone, which comes
        # again where receive slots and outputs are used in turn.
        if self._copies or bound.addresses != addresses:
            self._bind(bound, addresses)
        self._session.run_with_iobinding(bound.binding)
        computed_ns = time.perf_counter_ns()
        cpu_ns = time.thread_time_ns() - cpu_ns
        return Computed(
            bound.outputs,
            start_ns,
            computed_ns,
            computed_ns - start_ns,
            None if self._copies else cpu_ns,
        )

    def _bind(self, bound: _Bound, addresses: list[int]) -> None:
        """Bind the inputs where they lie."""
        for number, (spec, address) in enumerate(zip(self._inputs, addresses, strict=True)):
            if (name := f"input_{number}") in self._used:
                bound.binding.bind_input(name, "cpu", 0, _numpy(spec), spec.shape, address)
        bound.addresses = addresses

    def close(self) -> None:
        """Give back the session and all memory."""
        self._sets.clear()
        self._session = None


class _Bound:
    """The outputs of one batch, bound to a session, and where the inputs lay that are bound."""

    def __init__(self, session: Any, specs: Sequence[TensorSpec]) -> None:
        self.outputs = zeros(specs)
        self.addresses: list[int] = []
        self.binding = session.io_binding()
        for number, (spec, tensor) in enumerate(zip(specs, self.outputs, strict=True)):
            self.binding.bind_output(
                f"output_{number}", "cpu", 0, _numpy(spec), spec.shape, tensor.data_ptr()
            )


def here() -> tuple[str, list[str]]:
    """Version of ONNX Runtime, and the kinds of device that it can use here.

    Raises
    ------
    ExecutionError
        When it is not installed, or cannot be imported.
    """
    found = _imported()
    providers = found.get_available_providers()
    return found.__version__, [kind for kind, name in _PROVIDERS.items() if name in providers]


def _imported() -> Any:
    """Import ONNX Runtime."""
    try:
        import onnxruntime
    except Exception as error:
        absent = isinstance(error, ModuleNotFoundError) and error.name == "onnxruntime"
        reason = "is not installed here" if absent else f"cannot be imported here: {told(error)}"
        raise ExecutionError(
            f"onnxruntime {reason}; allowed: runtime 'eager', or installing the package onnxruntime"
        ) from error
    return onnxruntime


def build(assignment: Assignment) -> OnnxRuntime:
    """Load a stage, see :class:`paretopipe_worker.execution.api.Build`."""
    if unknown := [spec for spec in (*assignment.inputs, *assignment.outputs) if not _known(spec)]:
        raise ExecutionError(
            f"runtime 'onnxruntime' takes and returns no {unknown[0].dtype}, which crosses at "
            f"{assignment.before} or {assignment.after}"
        )
    data = loading.load_checked(assignment.file)
    session = _session(data, assignment)
    taken = {f"input_{number}" for number in range(len(assignment.inputs))}
    given = [f"output_{number}" for number in range(len(assignment.outputs))]
    found = [each.name for each in session.get_outputs()]
    named = {each.name for each in session.get_inputs()}
    if not named <= taken or found != given:
        raise ExecutionError(
            f"{assignment.file}: takes {', '.join(sorted(named))} and returns {', '.join(found)}; "
            f"allowed: {', '.join(sorted(taken))} and {', '.join(given)}"
        )
    made = OnnxRuntime(session, assignment)
    made.begin(1)
    try:
        made.run(zeros(assignment.inputs))
    except Exception as error:
        raise ExecutionError(f"onnxruntime cannot run the stage: {told(error)}") from error
    return made


def _session(data: bytes, assignment: Assignment) -> Any:
    """Have ONNX Runtime read a stage, for as many threads as torch has."""
    onnxruntime = _imported()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # A thread that spins between two batches takes a core from the other stages of its host.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    name = _PROVIDERS[kind(assignment.device)]
    if name not in onnxruntime.get_available_providers():
        raise ExecutionError(
            f"onnxruntime {onnxruntime.__version__} as it is installed here has no {name}, which "
            f"device '{assignment.device}' needs; allowed: device 'cpu', or a build with it"
        )
    number = assignment.device.partition(":")[2]
    provider = (name, {"device_id": number} if number else {})
    try:
        session = onnxruntime.InferenceSession(data, options, [provider])
    except Exception as error:
        raise ExecutionError(f"onnxruntime cannot load the stage: {told(error)}") from error
    if name not in session.get_providers():
        raise ExecutionError(
            f"onnxruntime cannot use device '{assignment.device}' here: it fell back to "
            f"{', '.join(session.get_providers())}"
        )
    return session


def _known(spec: TensorSpec) -> bool:
    """Whether numpy, which names dtypes to ONNX Runtime, has a dtype."""
    return hasattr(np, spec.dtype) or spec.dtype == "bool"


def _numpy(spec: TensorSpec) -> Any:
    """A dtype as ONNX Runtime takes it."""
    return np.dtype(spec.dtype).type

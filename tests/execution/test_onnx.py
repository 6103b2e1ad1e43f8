"""ONNX Runtime has the threads that its host has for a stage, and holds no core while it waits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from paretopipe_worker.cuts import FIRST
from paretopipe_worker.execution.onnx import OnnxRuntime
from tests.helpers.executors import MIDDLE, Stage


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Threads that torch has."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_threads_are_the_host_s_and_do_not_spin(tmp_path: Path, threads: int) -> None:
    tasks, stage = Path("/proc/self/task"), Stage(MIDDLE, FIRST, tmp_path)
    stage.executor("onnxruntime").close()  # what exports it starts threads of its own, once
    before = len(list(tasks.iterdir()))
    made = stage.executor("onnxruntime")
    assert isinstance(made, OnnxRuntime)
    # The calling thread computes, too.
    assert len(list(tasks.iterdir())) - before == threads - 1
    assert made.options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    made.close()
    assert len(list(tasks.iterdir())) == before

"""What cannot be executed is refused in one line, which says what is allowed."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from paretopipe_worker.cuts import FIRST, LAST
from paretopipe_worker.execution.api import Assignment, ExecutionError, build
from paretopipe_worker.model import loading
from paretopipe_worker.model.program import PartitionError
from tests.helpers.executors import MIDDLE, Stage


@pytest.fixture
def onnx(tmp_path: Path) -> Assignment:
    """A stage whose file is there."""
    stage = Stage(MIDDLE, FIRST, tmp_path)
    stage.executor("onnxruntime").close()
    return replace(stage.assignment, runtime="onnxruntime")


def refused(assignment: Assignment) -> str:
    """The one line in which a stage is refused."""
    with pytest.raises((ExecutionError, PartitionError)) as error, torch.inference_mode():
        build(assignment)
    text = str(error.value)
    assert "\n" not in text
    return text


def test_an_unknown_runtime_is_refused(tmp_path: Path) -> None:
    asked = replace(Stage(LAST, MIDDLE, tmp_path).assignment, runtime="tensorrt")
    assert refused(asked) == ("runtime 'tensorrt' is unknown; allowed are: eager, onnxruntime")


def test_a_device_that_no_runtime_knows_is_refused(tmp_path: Path) -> None:
    asked = replace(Stage(LAST, MIDDLE, tmp_path).assignment, device="tpu:0")
    assert refused(asked) == "runtime 'eager' knows no device 'tpu:0'; allowed are: cpu, cuda"


def test_a_gpu_that_is_not_there_is_refused(tmp_path: Path) -> None:
    asked = replace(Stage(LAST, MIDDLE, tmp_path).assignment, device="cuda:77")
    text = refused(asked)
    assert text.startswith("device 'cuda:77' is not here: torch ")
    assert "allowed: cpu" in text


def test_a_gpu_for_which_onnxruntime_is_not_built_is_refused(onnx: Assignment) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime is built for GPUs")
    text = refused(replace(onnx, device="cuda:0"))
    assert (
        "has no CUDAExecutionProvider, which device 'cuda:0' needs; allowed: device 'cpu'" in text
    )


def test_a_missing_file_and_a_damaged_one_are_refused(onnx: Assignment) -> None:
    data = bytearray(onnx.file.read_bytes())
    data[-1] ^= 1
    onnx.file.write_bytes(data)
    assert "is damaged" in refused(onnx)
    onnx.file.unlink()
    assert str(onnx.file) in refused(onnx)


def test_a_file_of_another_stage_is_refused(onnx: Assignment) -> None:
    other = Stage(LAST, MIDDLE, onnx.file.parent / "other")
    other.folder.mkdir()
    other.executor("onnxruntime").close()
    text = refused(replace(onnx, file=other.assignment.file))
    assert "returns output_0, output_1, output_2; allowed: " in text


def test_a_file_that_is_no_onnx_is_refused(onnx: Assignment) -> None:
    loading.save_checked(b"no onnx", onnx.file)
    assert refused(onnx).startswith("onnxruntime cannot load the stage: ")


def test_a_stage_of_other_shapes_is_refused_before_it_is_needed(onnx: Assignment) -> None:
    first, *others = onnx.inputs
    wrong = replace(first, shape=(*first.shape[:-1], first.shape[-1] + 1))
    text = refused(replace(onnx, inputs=(wrong, *others)))
    assert text.startswith("onnxruntime cannot run the stage: ")


def test_a_broken_installation_is_told_as_the_reason(
    onnx: Assignment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "onnxruntime"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise OSError('libonnxruntime.so is not there')\n")
    for name in [each for each in sys.modules if each.partition(".")[0] == "onnxruntime"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    text = refused(onnx)
    assert "onnxruntime cannot be imported here: OSError: libonnxruntime.so is not there" in text
    assert "allowed: runtime 'eager'" in text


def test_a_dtype_that_the_runtime_cannot_take_is_refused(onnx: Assignment) -> None:
    first, *others = onnx.inputs
    text = refused(replace(onnx, inputs=(replace(first, dtype="bfloat16"), *others)))
    assert text.startswith("runtime 'onnxruntime' takes and returns no bfloat16")

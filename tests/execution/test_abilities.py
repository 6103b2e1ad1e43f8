"""What a host says that it can."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import onnxruntime
import torch

from paretopipe_worker.execution.runtimes import RUNTIMES
from tests import ROOT


def abilities(path: Path | None = None) -> dict[str, dict[str, dict[str, object]]]:
    """What the command prints, with a folder in front of Python's path."""
    folders = [str(each) for each in (path, ROOT) if each]
    done = subprocess.run(
        [sys.executable, "-m", "paretopipe_worker", "abilities"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(folders)},
        cwd=path,
        capture_output=True,
        text=True,
        check=True,
    )
    [line] = done.stdout.splitlines()
    found: dict[str, dict[str, dict[str, object]]] = json.loads(line)
    return found


def test_a_host_says_its_runtimes_and_devices_in_one_line() -> None:
    found = abilities()
    assert found["runtimes"].keys() == RUNTIMES.keys()
    assert found["runtimes"]["eager"]["version"] == torch.__version__
    assert found["runtimes"]["onnxruntime"]["version"] == onnxruntime.__version__
    assert "cpu" in found["runtimes"]["onnxruntime"]["devices"]
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    assert list(found["devices"]) == ["cpu", *(f"cuda:{number}" for number in range(gpus))]
    assert "float32" in found["devices"]["cpu"]["dtypes"]


def test_a_runtime_that_cannot_be_imported_is_missing_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "onnxruntime.py").write_text("raise OSError('libonnxruntime.so is not there')\n")
    found = abilities(tmp_path)["runtimes"]["onnxruntime"]
    reason = "onnxruntime cannot be imported here: OSError: libonnxruntime.so is not there"
    assert list(found) == ["missing"]
    assert str(found["missing"]).startswith(reason)


def test_a_runtime_that_is_not_installed_is_missing(tmp_path: Path) -> None:
    (tmp_path / "onnxruntime.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'onnxruntime'\", name='onnxruntime')\n"
    )
    found = abilities(tmp_path)["runtimes"]["onnxruntime"]
    assert str(found["missing"]).startswith("onnxruntime is not installed here; allowed: ")


def test_a_dtype_is_told_where_torch_computes_in_it(tmp_path: Path) -> None:
    # A torch that has no convolution of half-precision numbers, as that of an older processor.
    (tmp_path / "sitecustomize.py").write_text(
        "import torch\n"
        "whole = torch.nn.functional.conv2d\n"
        "def conv2d(image, kernel):\n"
        "    if image.dtype == torch.float16:\n"
        "        raise RuntimeError('\"slow_conv2d_cpu\" not implemented for Half')\n"
        "    return whole(image, kernel)\n"
        "torch.nn.functional.conv2d = conv2d\n"
    )
    assert abilities(tmp_path)["devices"]["cpu"]["dtypes"] == ["float32", "bfloat16"]

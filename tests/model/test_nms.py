"""Importing torchvision: only where it is needed, and mended where its CUDA wheel needs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests import ROOT
from tests.helpers.models import SIZED

pytestmark = pytest.mark.slow


def _python(code: str, *paths: Path) -> subprocess.CompletedProcess[str]:
    """Run Python with packages of our own in front of the installed ones."""
    path = os.pathsep.join(map(str, [*paths, ROOT]))
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def _fake_torchvision(folder: Path, text: str) -> Path:
    """Make a package that fails to import unless its operators have been declared."""
    package = folder / "torchvision"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        "import torch\n"
        "try:\n"
        "    torch.ops.torchvision.nms, torch.ops.torchvision.qnms\n"
        "except AttributeError:\n"
        f"    raise RuntimeError({text!r})\n"
    )
    (package / "models.py").write_text("def list_models(module):\n    return ['declared']\n")
    return folder


MISSING_OPERATOR = "operator torchvision::nms does not exist"
LIST = "from paretopipe_worker.model.sources import classifiers; print(*classifiers())"


@pytest.mark.skipif(torch.version.cuda is not None, reason="needs a CPU build of torch")
def test_torchvision_for_cuda_beside_torch_for_cpu_is_imported(tmp_path: Path) -> None:
    result = _python(LIST, _fake_torchvision(tmp_path, MISSING_OPERATOR))
    assert (result.stdout.split(), result.stderr) == (["declared"], "")


AT_ITS_HEAD = "import torchvision\nfrom torch.nn import Identity as net\n"
INSIDE_THE_FACTORY = """\
from torch import nn

def net():
    try:
        import torchvision
    except Exception as error:
        raise ImportError("install torchvision") from error
    return nn.Identity()
"""


@pytest.mark.skipif(torch.version.cuda is not None, reason="needs a CPU build of torch")
@pytest.mark.parametrize("text", [AT_ITS_HEAD, INSIDE_THE_FACTORY], ids=["head", "inside"])
def test_a_factory_may_import_torchvision_wherever_it_likes(text: str, tmp_path: Path) -> None:
    _fake_torchvision(tmp_path, MISSING_OPERATOR)
    (tmp_path / "lab.py").write_text(text)
    code = "from paretopipe_worker.model import zoo; print(zoo.build('lab:net', seed=1))"
    result = _python(code, tmp_path)
    assert (result.stdout.strip(), result.stderr) == ("Identity()", "")


def test_another_import_error_of_torchvision_surfaces(tmp_path: Path) -> None:
    other = "operator torchvision::roi_align does not exist"
    result = _python(LIST, _fake_torchvision(tmp_path, other))
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == f"RuntimeError: {other}"


def test_the_missing_operator_surfaces_beside_a_torch_for_cuda(tmp_path: Path) -> None:
    code = f"import torch; torch.version.cuda = '13.0'; {LIST}"
    result = _python(code, _fake_torchvision(tmp_path, MISSING_OPERATOR))
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == f"RuntimeError: {MISSING_OPERATOR}"


def test_torchvision_is_imported_only_for_its_own_models() -> None:
    code = (
        "import sys; from paretopipe_worker.model import partition, zoo; "
        f"zoo.build('{SIZED}', seed=1); print('torchvision' in sys.modules)"
    )
    assert _python(code).stdout.strip() == "False"

"""Building models: names, live random weights, checkpoints, inputs."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from paretopipe_worker.cuts import TensorSpec
from paretopipe_worker.model.capture import capture
from paretopipe_worker.model.partition import find_cuts
from paretopipe_worker.model.weights import WeightsError
from paretopipe_worker.model.zoo import (
    ModelError,
    build,
    classifiers,
    default_input,
    example_input,
    load_weights,
    save_weights,
    weights_sha256,
)
from tests import ROOT

PAPER = ("mobilenet_v2", "resnet18", "resnet50", "alexnet", "vgg16", "inception_v3")
DEAD_BY_DEFAULT = ("vit_b_32", "convnext_tiny", "squeezenet1_1", "mobilenet_v3_small")


class Normed(nn.Module):
    """A user's model with BatchNorm, a zero head and tied layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 4, 1)
        self.third = nn.Conv2d(4, 4, 1)
        self.third.weight = self.second.weight
        self.head = nn.Linear(4, 3)
        nn.init.zeros_(self.head.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return three logits."""
        y = self.third(torch.relu(self.second(self.norm(self.first(x)))))
        return self.head(y.mean((2, 3)))


class Sized(Normed):
    """The same, which says what it takes."""

    input_shape = (2, 9, 9)


SIZED = f"{__name__}:Sized"


def fails() -> nn.Module:
    """Raise in a factory."""
    raise OSError("no such table")


def no_module() -> int:
    """Return something else."""
    return 3


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Compute on one thread: two of them wait for each other when other tests use the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@functools.cache
def _model(name: str) -> nn.Module:
    """Built once; a test that changes a weight puts it back."""
    return build(name, seed=5)


def _example(name: str, index: int = 0) -> torch.Tensor:
    return example_input(TensorSpec((1, *default_input(name)), "float32"), seed=5, index=index)


@torch.inference_mode()
def _output(model: nn.Module, tensor: torch.Tensor) -> torch.Tensor:
    result: torch.Tensor = model(tensor.clone())
    return result


@pytest.mark.parametrize("name", [*PAPER, *DEAD_BY_DEFAULT])
def test_two_inputs_differ_by_over_one_percent_of_the_largest_output(name: str) -> None:
    first, second = (_output(_model(name), _example(name, index)) for index in (0, 1))
    assert first.isfinite().all()
    assert (first - second).abs().max() > 0.01 * first.abs().max()
    assert first.abs().max() > 1e-3


@pytest.mark.parametrize("name", PAPER)
def test_changing_one_weight_of_any_block_changes_the_output(name: str) -> None:
    model, example = _model(name), _example(name)[..., ::2, ::2].contiguous()
    blocks = [cut.name for cut in find_cuts(capture(model, example), "block")]
    weights = {
        path: weight
        for path in [*blocks, list(model.named_modules())[-1][0]]
        for weight in model.get_submodule(path).parameters()
        if weight.dim() > 1
    }
    reference = _output(model, example)
    for (path, weight), at in zip(weights.items(), _in_use(model, example, weights), strict=True):
        element = weight.view(-1)[at]
        element.neg_()
        assert not torch.equal(_output(model, example), reference), path
        element.neg_()
    assert len(weights) >= 8
    assert torch.equal(_output(model, example), reference)


def _in_use(model: nn.Module, example: torch.Tensor, weights: dict[str, nn.Parameter]) -> list[int]:
    """Index of each tensor's element that matters most: behind a ReLU half of them are idle."""
    parameters = [weight.requires_grad_(True) for weight in weights.values()]
    gradients = torch.autograd.grad(model(example.clone()).square().sum(), parameters)
    for weight in parameters:
        weight.requires_grad_(False)
    return [int((g * w).abs().argmax()) for g, w in zip(gradients, parameters, strict=True)]


def test_the_seed_decides_the_weights_and_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = build("mobilenet_v2", seed=1)
    assert torch.equal(torch.rand(3), expected)
    torch.manual_seed(2)
    again, other = build("mobilenet_v2", seed=1), build("mobilenet_v2", seed=2)
    assert weights_sha256(first) == weights_sha256(again)
    assert weights_sha256(first) != weights_sha256(other)


def test_a_model_is_built_for_inference() -> None:
    model = _model("inception_v3")
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not any(name.startswith("AuxLogits") for name, _ in model.named_modules())
    assert _output(model, _example("inception_v3")).shape == (1, 1000)


def test_a_factory_builds_a_model_with_live_weights() -> None:
    model = build(f"{__name__}:Sized", seed=1)
    assert default_input(f"{__name__}:Sized") == (2, 9, 9)
    inputs = [
        example_input(TensorSpec((2, 2, 9, 9), "float32"), seed=1, index=index) for index in (0, 1)
    ]
    outputs = [_output(model, tensor) for tensor in inputs]
    assert (outputs[0] - outputs[1]).abs().max() > 0.01 * outputs[0].abs().max()


def test_a_factory_that_does_not_say_its_input_needs_it_given() -> None:
    name = f"{__name__}:Normed"
    with pytest.raises(ModelError, match="give `input`"):
        default_input(name)
    with pytest.raises(ModelError, match="give `input`"):
        build(name, seed=1)
    assert isinstance(build(name, seed=1, input_shape=(2, 9, 9)), Normed)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("mobilnet_v2", r"unknown model 'mobilnet_v2' \(close: mobilenet_v2.*package\.module"),
        ("fasterrcnn_resnet50_fpn", "unknown model"),
        ("no_such_package.x:make", "no_such_package"),
        (f"{__name__}:missing", "no callable 'missing'"),
        (f"{__name__}:fails", "factory failed with OSError: no such table"),
        (f"{__name__}:no_module", "returned int, not an nn.Module"),
    ],
)
def test_a_wrong_name_is_refused_with_what_is_allowed(name: str, text: str) -> None:
    with pytest.raises(ModelError, match=text):
        build(name, seed=1)


def test_the_command_that_the_error_names_lists_the_classifiers(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(ModelError) as caught:
        build("nothing", seed=1)
    found = re.search(r"`python -c '(.*)'`", str(caught.value))
    assert found
    exec(found[1], {})
    assert capsys.readouterr().out.split() == list(classifiers())


def test_default_inputs_are_those_of_the_smallest_weights() -> None:
    sizes = {"mobilenet_v2": 224, "inception_v3": 299, "vit_h_14": 224, "efficientnet_b1": 240}
    assert {name: default_input(name) for name in sizes} == {
        name: (3, size, size) for name, size in sizes.items()
    }


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", SIZED])
def test_saved_weights_make_the_same_model_again(name: str, suffix: str, tmp_path: Path) -> None:
    model, path = build(name, seed=1), tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_weights(model, path)
    else:
        torch.save(model.state_dict(), path)
    loaded = build(name, seed=2, weights=path)
    assert weights_sha256(loaded) == weights_sha256(model)
    # Kernels round by where in memory weights begin, which a file decides for all who load it: the
    # last bits are the same for two who do, not for the model that was saved.
    output, again = (_output(build(name, seed=2, weights=path), _example(name)) for _ in range(2))
    assert torch.equal(output, again)
    assert torch.allclose(output, _output(model, _example(name)), rtol=0, atol=1e-5)
    assert not any(p.requires_grad for p in loaded.parameters())


def test_saving_twice_writes_the_same_bytes_and_nothing_else(tmp_path: Path) -> None:
    model = build(f"{__name__}:Sized", seed=1)
    for name in ("a", "b"):
        save_weights(model, tmp_path / f"{name}.safetensors")
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a.safetensors", "b.safetensors"]
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_the_checksum_covers_names_values_and_buffers() -> None:
    model = build(f"{__name__}:Sized", seed=1)
    sums = {weights_sha256(model)}
    model.norm.running_mean[0] += 1
    sums.add(weights_sha256(model))
    model.head.bias[0] += 1
    sums.add(weights_sha256(model))
    model.renamed = model.head
    sums.add(weights_sha256(model))
    assert len(sums) == 4


def test_auxiliary_heads_in_a_checkpoint_are_left_out(tmp_path: Path) -> None:
    model = _model("inception_v3")
    path = tmp_path / "official.pt"
    torch.save({**model.state_dict(), "AuxLogits.fc.bias": torch.zeros(2)}, path)
    assert weights_sha256(build("inception_v3", seed=1, weights=path)) == weights_sha256(model)


def test_a_checkpoint_older_than_the_batch_counter_loads(tmp_path: Path) -> None:
    model = _model("resnet18")
    path = tmp_path / "old.pt"
    state = {k: v for k, v in model.state_dict().items() if not k.endswith("batches_tracked")}
    torch.save(state, path)
    loaded = build("resnet18", seed=1, weights=path)
    assert torch.equal(_output(loaded, _example("resnet18")), _output(model, _example("resnet18")))


def test_a_checkpoint_that_does_not_fit_is_refused_with_file_and_names(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    model = build(f"{__name__}:Sized", seed=1)
    save_weights(model, path)
    with pytest.raises(ModelError) as caught:
        build("resnet18", seed=1, weights=path)
    for part in (str(path), "not in the file: bn1.bias, ", "not in the model: first.bias, ", "..."):
        assert part in str(caught.value)
    model.head = nn.Linear(4, 7)
    with pytest.raises(WeightsError, match=r"of another shape.*head\.bias \(\(3,\) .* for \(7,\)"):
        load_weights(model, path)


WRAPPED = {
    "DataParallel": (("module.",), "prefix 'module.' removed from the names of its 13 tensors"),
    "compiled": (("_orig_mod.",), "prefix '_orig_mod.' removed from the names of its 13 tensors"),
    "both": (("_orig_mod.", "module."), "prefix 'module._orig_mod.' removed"),
    "both, the other way": (("module.", "_orig_mod."), "prefix '_orig_mod.module.' removed"),
}


@pytest.mark.parametrize("prefixes,told", WRAPPED.values(), ids=WRAPPED)
def test_prefixes_of_wrapped_models_are_taken_off_with_a_word(
    prefixes: tuple[str, ...], told: str, tmp_path: Path
) -> None:
    model, path, notes = build(SIZED, seed=1), tmp_path / "trained.pt", []
    state = model.state_dict()
    for prefix in prefixes:
        state = {prefix + name: tensor for name, tensor in state.items()}
    torch.save(state, path)
    loaded = build(SIZED, seed=2, weights=path, note=notes.append)
    assert weights_sha256(loaded) == weights_sha256(model)
    [note] = notes
    assert note.startswith(f"{path}: {told}")


def test_a_prefix_that_is_the_models_own_or_not_all_names_have_stays(tmp_path: Path) -> None:
    wrapped, path, notes = nn.DataParallel(Normed()), tmp_path / "own.pt", []
    torch.save(wrapped.state_dict(), path)
    load_weights(wrapped, path, note=notes.append)
    assert notes == []
    state = build(SIZED, seed=1).state_dict()
    torch.save({f"module.{n}" if n != "head.bias" else n: t for n, t in state.items()}, path)
    with pytest.raises(ModelError, match=r"12 not in the model: module\.first\.bias"):
        build(SIZED, seed=1, weights=path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_checkpoint_of_16_bits_becomes_float32_with_a_word(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    model, path, notes = build(SIZED, seed=1), tmp_path / "half.pt", []
    torch.save({f"module.{n}": t for n, t in model.to(dtype).state_dict().items()}, path)
    loaded = build(SIZED, seed=2, weights=path, note=notes.append)
    assert {t.dtype for t in loaded.state_dict().values()} == {torch.float32, torch.int64}
    assert torch.equal(loaded.head.weight, model.head.weight.float())
    kind = str(dtype).removeprefix("torch.")
    assert notes[1:] == [f"{path}: 12 tensors converted from {kind} to the model's float32"]
    torch.save({n: t.double() for n, t in model.state_dict().items()}, path)
    with pytest.raises(ModelError, match=r"head\.bias \(\(3,\) torch\.float64 for \(3,\)"):
        build(SIZED, seed=2, weights=path)


def test_a_file_that_is_no_checkpoint_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path}/ran",)

    missing, garbage, evil, nested = (tmp_path / f"{name}.pt" for name in "abcd")
    garbage.write_bytes(b"not a checkpoint")
    torch.save({"x": Evil()}, evil)
    torch.save({"state_dict": {"x": torch.zeros(1)}}, nested)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"\0" * 16)
    for path in (missing, garbage, evil, nested, broken):
        with pytest.raises(ModelError, match=str(path)):
            build("resnet18", seed=1, weights=path)
    assert not (tmp_path / "ran").exists()


def test_an_input_is_decided_by_seed_and_index() -> None:
    spec = TensorSpec((2, 3, 20, 30), "float32")
    drawn = [example_input(spec, seed=s, index=i) for s, i in ((1, 0), (1, 1), (2, 0), (1, 0))]
    assert drawn[0].shape == spec.shape
    assert torch.equal(drawn[0], drawn[3])
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0][0], drawn[0][1])


def test_inputs_are_exact_in_float32_so_every_machine_draws_the_same_bits() -> None:
    drawn = example_input(TensorSpec((1, 3, 20, 30), "float32"), seed=1, index=0)
    assert torch.equal(drawn * 64, (drawn * 64).round())


def _python(code: str, *paths: Path) -> subprocess.CompletedProcess[str]:
    """Run Python with packages of our own in front of the installed ones."""
    root = ROOT
    path = os.pathsep.join(map(str, [*paths, root]))
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
LIST = "from paretopipe_worker.model.zoo import classifiers; print(*classifiers())"


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
    code = "from paretopipe_worker import models; print(models.build('lab:net', seed=1))"
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
        "import sys; from paretopipe_worker import models, partition; "
        "models.build('tests.model.test_zoo:Sized', seed=1); print('torchvision' in sys.modules)"
    )
    assert _python(code).stdout.strip() == "False"

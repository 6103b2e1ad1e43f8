"""Building models: names, live random weights, inputs."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from paretopipe_worker.cuts import TensorSpec
from paretopipe_worker.model.inputs import example_input
from paretopipe_worker.model.sources import ModelError, classifiers, default_input
from paretopipe_worker.model.zoo import build
from tests.helpers.models import (
    NORMED,
    PAPER,
    SIZED,
    Normed,
    captured_at,
    classifier,
    cut_names,
    output,
    smallest,
    state_sha256,
    two_inputs,
)

pytestmark = pytest.mark.slow

DEAD_BY_DEFAULT = ("vit_b_32", "convnext_tiny", "squeezenet1_1", "mobilenet_v3_small")


def fails() -> nn.Module:
    """Raise in a factory."""
    raise OSError("no such table")


def no_module() -> int:
    """Return something else."""
    return 3


def with_a_sum_in_a_name() -> nn.Module:
    """Have a module whose name looks like that of a split at two cuts."""
    model = nn.Sequential(nn.Linear(4, 4))
    model.add_module("a+b", nn.Linear(4, 4))
    return model


def with_a_line_in_a_name() -> nn.Module:
    """Have a module whose name has two lines."""
    model = nn.Sequential(nn.Linear(4, 4))
    model.add_module("a\nb", nn.Linear(4, 4))
    return model


@pytest.mark.parametrize("name", [*PAPER, *DEAD_BY_DEFAULT])
def test_two_inputs_differ_by_over_one_percent_of_the_largest_output(name: str) -> None:
    first, second = (output(classifier(name), tensor) for tensor in two_inputs(name))
    assert first.isfinite().all()
    assert (first - second).abs().max() > 0.01 * first.abs().max()
    assert first.abs().max() > 1e-3


@pytest.mark.parametrize("name", PAPER)
def test_changing_one_weight_of_any_block_changes_the_output(name: str) -> None:
    model, example = classifier(name), two_inputs(name, size=smallest(name))[0]
    blocks = cut_names(captured_at(name, size=smallest(name)), "block")
    weights = {
        path: weight
        for path in [*blocks, list(model.named_modules())[-1][0]]
        for weight in model.get_submodule(path).parameters()
        if weight.dim() > 1
    }
    reference = output(model, example)
    for (path, weight), at in zip(weights.items(), _in_use(model, example, weights), strict=True):
        element = weight.view(-1)[at]
        element.neg_()
        assert not torch.equal(output(model, example), reference), path
        element.neg_()
    assert len(weights) >= 8
    assert torch.equal(output(model, example), reference)


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
    assert state_sha256(first) == state_sha256(again)
    assert state_sha256(first) != state_sha256(other)


def test_a_model_is_built_for_inference() -> None:
    model = classifier("inception_v3")
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not any(name.startswith("AuxLogits") for name, _ in model.named_modules())
    assert output(model, two_inputs("inception_v3")[0]).shape == (1, 1000)


def test_a_factory_builds_a_model_with_live_weights() -> None:
    model = build(SIZED, seed=1)
    assert default_input(SIZED) == (2, 9, 9)
    inputs = [
        example_input(TensorSpec((2, 2, 9, 9), "float32"), seed=1, index=index) for index in (0, 1)
    ]
    outputs = [output(model, tensor) for tensor in inputs]
    assert (outputs[0] - outputs[1]).abs().max() > 0.01 * outputs[0].abs().max()


def test_a_factory_that_does_not_say_its_input_needs_it_given() -> None:
    name = NORMED
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
        (f"{__name__}:with_a_sum_in_a_name", r"a module 'a\+b'; allowed are names that"),
        (f"{__name__}:with_a_line_in_a_name", r"a module 'a\\nb'; allowed are names that"),
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

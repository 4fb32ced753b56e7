"""The first module whose output is not finite is named."""

import pytest
import torch
from tiny import ARCHITECTURES, tiny_model

from llmbrain.exceptions import NumericalError
from llmbrain.models.finite import check_weights, first_not_finite, not_finite_error
from llmbrain.models.sites import find_sites

IDS = torch.arange(10)[None]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_first_module_is_found_in_every_architecture(name):
    model = tiny_model(name)
    run = lambda: model(input_ids=IDS)  # noqa: E731
    assert first_not_finite(model, run) is None
    check_weights(model)
    site = find_sites(model, "mlp")[2]
    with torch.no_grad():
        site.module.weight[0, 0] = float("nan")
    assert first_not_finite(model, run) == site.name
    with pytest.raises(NumericalError, match="hold nan or inf"):
        check_weights(model)
    assert f"first module that fails is {site.name}." in str(not_finite_error(model, run, "The losses"))
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_broken_norm_is_named_with_its_weight(value):
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.layers[1].input_layernorm.weight[3] = value
    error = not_finite_error(model, lambda: model(input_ids=IDS), "The losses")
    assert "model.layers.1.input_layernorm" in str(error) and "Its weight holds nan or inf" in str(error)


def test_overflow_of_half_precision_has_its_own_advice():
    model = tiny_model("llama", scale=4.0).to(torch.float16)
    with torch.no_grad():
        model.model.layers[2].mlp.up_proj.weight *= 3e3
        model.model.layers[2].mlp.gate_proj.weight *= 3e3
    error = str(not_finite_error(model, lambda: model(input_ids=IDS), "The losses"))
    assert "model.layers.2.mlp" in error and "dtype='bfloat16'" in error


def test_hooks_are_removed_when_the_model_fails():
    model = tiny_model("llama")
    with pytest.raises(IndexError):
        first_not_finite(model, lambda: model(input_ids=IDS + 10**6))
    assert not any(module._forward_hooks for module in model.modules())

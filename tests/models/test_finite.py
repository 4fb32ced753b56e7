"""The first module whose output is not finite is named."""

import math

import pytest
import torch
from tiny import ARCHITECTURES, tiny_model, tiny_tokenizer

import llmbrain as lb
from llmbrain.evaluation import generate_texts
from llmbrain.exceptions import NumericalError
from llmbrain.models.finite import check_weights, finite_logits, first_not_finite, not_finite_error
from llmbrain.models.sites import find_sites
from llmbrain.recording import generated

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


PROMPTS = ["the cat", "a house"]
GENERATIONS = {
    "greedy": lambda *both: generate_texts(*both, PROMPTS, max_new_tokens=3),
    "sampled": lambda *both: generate_texts(*both, PROMPTS, max_new_tokens=3, sample=True),
    "recorded": lambda *both: generated(*both, PROMPTS, max_new_tokens=3),
    "recorded samples": lambda *both: generated(*both, PROMPTS, max_new_tokens=3, random_state=0),
}


ATTENTION = "model.layers.3.self_attn.q_proj.weight"


@pytest.mark.parametrize("work", GENERATIONS.values(), ids=GENERATIONS)
@pytest.mark.parametrize(
    ("weight", "value", "words"),
    [
        ("lm_head.weight", math.nan, "lm_head.weight hold nan"),
        (ATTENTION, math.nan, f"{ATTENTION} hold nan"),
        ("lm_head.weight", 3e38, "The logits are not finite.*lm_head"),
        ("model.norm.weight", 3e38, "The logits are not finite.*model.norm"),
    ],
)
def test_no_token_is_chosen_from_logits_that_are_not_finite(weight, value, words, work):
    """NaN is the largest logit to a greedy choice."""
    model = tiny_model("llama")
    with torch.no_grad():
        model.get_parameter(weight).fill_(value)
    with pytest.raises(NumericalError, match=words):
        work(model, tiny_tokenizer())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_lesion_that_breaks_the_logits_writes_no_text():
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight *= 100
    mask = lb.NeuronMask.from_names([(1, 3), (1, 4)], lb.NeuronGeometry.from_model(model))
    with lb.lesion(model, mask, how="clamp", value=3e38), pytest.raises(NumericalError, match="The logits"):
        generate_texts(model, tiny_tokenizer(), PROMPTS, max_new_tokens=3)
    assert generate_texts(model, tiny_tokenizer(), PROMPTS, max_new_tokens=3)


def test_excluded_words_and_padding_may_have_any_logit():
    model = tiny_model("llama")
    padded = torch.ones_like(IDS).index_fill(1, IDS[0, :2], 0)

    def exclude(module, args, logits):
        logits[..., 5] = -math.inf
        logits[:, :2] = math.nan
        return logits

    with model.lm_head.register_forward_hook(exclude), finite_logits(model):
        model(input_ids=IDS, attention_mask=padded)
        with pytest.raises(NumericalError, match="the first module that fails is lm_head"):
            model(input_ids=IDS)

"""Slicing equals silencing: two independent ways to the same logits."""

import pytest
import torch
from tiny import ARCHITECTURES, tiny_model
from zoo import DENSE, EXPERTS, HYBRID, zoo_model

from llmbrain.exceptions import ParameterError, UnsupportedArchitectureError
from llmbrain.models import find_sites, site_hooks
from llmbrain.models.linears import weight_of
from llmbrain.models.surgery import (
    channels,
    even_heads,
    prunable_attentions,
    prunable_mlps,
    slice_attention,
    slice_mlp,
)

HEADS = [n for n in ARCHITECTURES if n not in ("phi3", "olmo2", "gpt_neox", "bloom", "falcon")]


@pytest.fixture(scope="module")
def ids():
    return torch.randint(3, 256, (2, 17), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def mask_mlp(mlp, kept):
    """Silence the other neurons: their columns of the writer become zero."""
    removed = [i for i in range(mlp.size) if i not in set(torch.as_tensor(kept).tolist())]
    weight_of(mlp.writer)[:, removed] = 0


@torch.no_grad()
def mask_heads(attention, kept_heads):
    """Silence the other heads."""
    kept = set(channels(torch.as_tensor(kept_heads), attention.head_dim).tolist())
    weight_of(attention.writer)[:, [i for i in range(attention.size) if i not in kept]] = 0


def logits(model, ids):
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_slicing_neurons_equals_masking_them(name, ids):
    masked, sliced = tiny_model(name), tiny_model(name)
    g = torch.Generator().manual_seed(1)
    for a, b in zip(prunable_mlps(masked), prunable_mlps(sliced)):
        kept = torch.randperm(a.size, generator=g)[: a.size // 3 + 2 * a.layer]
        mask_mlp(a, kept)
        slice_mlp(b, kept)
    assert float((logits(masked, ids) - logits(sliced, ids)).abs().max()) < 1e-5
    kwargs = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 258}
    assert torch.equal(masked.generate(ids, **kwargs), sliced.generate(ids, **kwargs))


@pytest.mark.parametrize(("name", "why"), [("bloom", "ALiBi"), ("gpt_neox", "layout"), ("olmo2", "parameters")])
def test_heads_that_cannot_be_sliced_are_refused_with_the_reason(name, why):
    with pytest.raises(UnsupportedArchitectureError, match=why):
        prunable_attentions(tiny_model(name))


@pytest.mark.parametrize("name", HEADS)
def test_slicing_heads_equals_masking_them(name, ids):
    masked, sliced = tiny_model(name), tiny_model(name)
    for a, b in zip(prunable_attentions(masked), prunable_attentions(sliced)):
        kept = channels(torch.tensor([a.layer % a.n_kv_heads]), a.group)
        mask_heads(a, kept)
        slice_attention(b, kept)
    assert float((logits(masked, ids) - logits(sliced, ids)).abs().max()) < 1e-5
    kwargs = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 258}
    assert torch.equal(masked.generate(ids, **kwargs), sliced.generate(ids, **kwargs))


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma2"])
def test_even_query_heads_keep_their_keys(name, ids):
    masked, sliced = tiny_model(name), tiny_model(name)
    for a, b in zip(prunable_attentions(masked), prunable_attentions(sliced)):
        mask_heads(a, [1, 2])  # one query head of each of the two groups
        assert slice_attention(b, [1, 2]) == (2, 2)
    assert float((logits(masked, ids) - logits(sliced, ids)).abs().max()) < 1e-5


def test_uneven_query_heads_are_refused():
    part = prunable_attentions(tiny_model("llama"))[0]
    before = part.readers[0].module.weight.shape
    with pytest.raises(ParameterError, match=r"\[2, 1\]"):
        slice_attention(part, [0, 1, 2])
    assert part.readers[0].module.weight.shape == before
    with pytest.raises(ParameterError):
        even_heads([], 4, 2)


def test_costs_are_what_slicing_saves():
    for name in ("llama", "gpt2", "phi3", "qwen2", "opt"):
        model = tiny_model(name)
        part = prunable_mlps(model)[1]
        before = sum(p.numel() for p in model.parameters())
        slice_mlp(part, range(part.size - 5))
        assert before - sum(p.numel() for p in model.parameters()) == 5 * part.unit_cost
        if name in HEADS:
            part = prunable_attentions(model)[1]
            before = sum(p.numel() for p in model.parameters())
            slice_attention(part, channels(torch.arange(1, part.n_kv_heads), part.group))
            assert before - sum(p.numel() for p in model.parameters()) == part.unit_cost


# -- what can be recorded can be pruned -------------------------------------------------------------------------------
def any_model(name):
    return tiny_model(name) if name in ARCHITECTURES else zoo_model(name)


@pytest.mark.parametrize("name", [*ARCHITECTURES, *DENSE, *EXPERTS, *HYBRID])
def test_a_lesion_of_neurons_is_a_pruned_model_or_the_refusal_says_why(name, ids):
    model = any_model(name)
    try:
        sites = find_sites(model, "mlp")
    except UnsupportedArchitectureError:
        with pytest.raises(UnsupportedArchitectureError, match="mixture of experts|Zamba2HybridLayer"):
            prunable_mlps(model)
        return
    if len(sites) < 4:
        with pytest.raises(UnsupportedArchitectureError, match=r"an MLP in every layer.*none in layers 0, 1, 3"):
            prunable_mlps(model)
        return
    kept = [torch.randperm(s.size, generator=torch.Generator().manual_seed(s.layer))[: s.size // 2] for s in sites]

    def lesion(i, x):
        return torch.zeros_like(x).index_copy(-1, kept[i], x[..., kept[i]])

    dense = logits(model, ids)
    with site_hooks(sites, lesion):
        wanted = logits(model, ids)
    for mlp, keep, site in zip(prunable_mlps(model), kept, sites):
        assert (mlp.name, mlp.size, mlp.writer) == (site.name, site.size, site.module)
        slice_mlp(mlp, keep)
    assert [mlp.size for mlp in prunable_mlps(model)] == [len(keep) for keep in kept]
    torch.testing.assert_close(logits(model, ids), wanted, rtol=0, atol=2e-5)
    assert float((dense - wanted).abs().max()) > 1e-3


@pytest.mark.parametrize("name", [*DENSE, "falcon_h1"])
def test_heads_of_other_models_are_sliced_right_or_refused(name, ids):
    model = zoo_model(name)
    if name in ("codegen", "mpt", "gpt_bigcode", "olmo3"):
        with pytest.raises(UnsupportedArchitectureError, match=r"unknown|depend on the heads.*heads=False"):
            prunable_attentions(model)
        return
    parts, masked = prunable_attentions(model), zoo_model(name)
    for a, b in zip(prunable_attentions(masked), parts):
        kept = channels(torch.tensor([a.layer % a.n_kv_heads]), a.group)
        mask_heads(a, kept)
        slice_attention(b, kept)
    torch.testing.assert_close(logits(model, ids), logits(masked, ids), rtol=0, atol=2e-5)


def test_parameters_per_neuron_are_refused():
    """BitNet normalises its neurons before they are written."""
    import transformers

    config = transformers.BitNetConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=2, vocab_size=300,
                                       num_attention_heads=4, num_key_value_heads=2, pad_token_id=0)  # fmt: skip
    model = transformers.BitNetForCausalLM(config)
    assert find_sites(model)[0].size == 48
    with pytest.raises(UnsupportedArchitectureError, match=r"ffn_sub_norm \(BitNetRMSNorm\) has parameters per neuron"):
        prunable_mlps(model)


def test_counts_follow_the_slicing():
    model = tiny_model("gpt2")
    attention = prunable_attentions(model)[0]
    assert slice_attention(attention, [1, 3]) == (2, 2)
    now = prunable_attentions(model)[0]
    assert (now.n_heads, now.n_kv_heads, now.owner.split_size, now.owner.num_heads) == (2, 2, 16, 2)
    assert find_sites(model, "attention")[0].n_heads == 2

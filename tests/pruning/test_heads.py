"""Attention heads: units, budgets, scores."""

from functools import partial

import numpy as np
import pytest
import torch
from tiny import tiny_model

import llmbrain as lb
from llmbrain.exceptions import (
    ParameterError,
)
from llmbrain.models.linears import weight_of
from llmbrain.models.surgery import (
    prunable_attentions,
)
from llmbrain.pruning import HEAD_SCORES
from llmbrain.pruning.heads import HEAD_UNITS, joint_counts
from llmbrain.pruning.scores import LayerInputs
from llmbrain.stats.moments import Moments

quick = partial(lb.prune, recipe="fast", measure=False, progress=False)
TEXTS = ["the cat sat on the mat and then the rain in spain fell on it " * 3 + str(i) * i for i in range(10)]
SENTENCES = [f"the cat number {i} sat on the mat and then the rain in spain fell over hills {i * 7}" for i in range(16)]
RNG = np.random.default_rng(0)
MAPS = RNG.standard_normal((6, 192))
quiet = partial(lb.prune, progress=False)


@pytest.mark.parametrize("allocation", ["power", "networks", "uniform"])
def test_heads_go_with_every_way_to_allot_neurons(allocation, model, tokenizer):
    networks = MAPS if allocation == "networks" else None
    pruned = quick(model, tokenizer, SENTENCES, 0.3, allocation=allocation, ratio_of="decoder", networks=networks,
                   options={"context": 32, "heads": True})  # fmt: skip
    s = pruned.summary
    assert s["decoder_parameters_removed"] == pytest.approx(0.3, abs=0.03)
    assert sum(s["n_heads_kept"]) < 16 and min(s["n_heads_kept"]) >= 1
    assert len(set(s["n_kept"])) == 1 if allocation == "uniform" else len(set(s["n_kept"])) > 1
    assert torch.isfinite(pruned.model(torch.arange(12)[None]).logits).all()


def test_measured_heads_go_before_neurons_when_they_cost_less(tokenizer):
    """Heads that write nothing are found, and the rest of the budget is taken from the neurons."""
    model = tiny_model("llama")
    part = prunable_attentions(model)[2]
    with torch.no_grad():
        weight_of(part.writer)[:, : part.group * part.head_dim] = 0  # the first group of the third layer
    options = {"context": 48, "heads": True}
    pruned = quiet(model, tokenizer, TEXTS, 0.15, recipe="fast", allocation="curves", ratio_of="decoder",
                   options=options, measure=False)  # fmt: skip
    assert pruned.kept_heads[2].tolist() == list(range(part.group, part.n_heads))
    assert pruned.summary["decoder_parameters_removed"] == pytest.approx(0.15, abs=0.03)
    assert pruned.summary["n_heads_before"] == [4, 4, 4, 4]


def test_head_units_keep_groups_even():
    part = prunable_attentions(tiny_model("llama"))[0]  # 4 query heads, 2 keys
    scores = torch.tensor([1.0, 4.0, 3.0, 2.0])
    values, steps = HEAD_UNITS["group"](part).order(scores)
    assert values.tolist() == [5.0, 5.0]
    assert steps == [[0, 1], [2, 3]]
    values, steps = HEAD_UNITS["query"](part).order(scores)
    assert values.tolist() == [3.0, 7.0]
    assert steps == [[0, 3], [1, 2]]


def test_joint_budget_counts_parameters():
    rng = np.random.default_rng(0)
    neurons, units = [rng.random(40) for _ in range(3)], [np.sort(rng.random(4)) for _ in range(3)]
    counts, removed = joint_counts(neurons, units, [3] * 3, [20] * 3, 150, floors=[2] * 3)
    assert (120 - counts.sum()) * 3 + removed.sum() * 20 == pytest.approx(150, abs=20)
    assert (removed < 4).all()
    with pytest.raises(ParameterError, match="Lower the ratio"):
        joint_counts(neurons, units, [3] * 3, [20] * 3, 1000, floors=[2] * 3)


@pytest.mark.parametrize("unit", ["group", "query"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen3"])
def test_heads_and_neurons_go_together(name, unit, tokenizer, texts, tmp_path):
    model = tiny_model(name)
    options = {"context": 64, "heads": True, "head_unit": unit, "ridge": 1e-2}
    pruned = quick(model, tokenizer, texts[:10], 0.3, ratio_of="decoder", allocation="global", options=options)
    assert pruned.summary["decoder_parameters_removed"] == pytest.approx(0.3, abs=0.05)
    ids = torch.randint(0, 256, (1, 12), generator=torch.Generator().manual_seed(0))
    pruned.save_pretrained(tmp_path / "m")
    with torch.no_grad():
        assert torch.equal(lb.load_model(tmp_path / "m")[0](ids).logits, pruned.model(ids).logits)
    if unit == "group":
        assert any(len(h) < p.n_heads for h, p in zip(pruned.kept_heads, prunable_attentions(model)))


def test_padding_heads_changes_nothing(tokenizer, texts, tmp_path):
    import transformers

    model = tiny_model("llama")
    options = {"context": 64, "heads": True}
    pruned = quick(
        model,
        tokenizer,
        texts[:10],
        0.3,
        ratio_of="decoder",
        allocation="global",
        compensation="ridge",
        options=options,
    )
    pruned.save_pretrained(tmp_path / "m", format="padded")
    stock = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "m").eval()
    ids = torch.randint(0, 256, (1, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(stock(ids).logits, pruned.model(ids).logits, rtol=0, atol=1e-5)


def test_heads_need_a_ratio_of_parameters(tokenizer, texts):
    with pytest.raises(ParameterError, match="decoder"):
        quick(tiny_model("llama"), tokenizer, texts, 0.2, options={"heads": True})


def test_head_scores_are_block_sums():
    part = prunable_attentions(tiny_model("llama"))[0]

    x = torch.randn(100, 32, generator=torch.Generator().manual_seed(0))
    m = Moments(32)
    m.add(x)
    w = part.writer.weight.double()
    rms = x.double().square().mean(0).sqrt()
    wanted = (w.abs().mean(0) * rms).reshape(4, 8).sum(1)
    found = LayerInputs(part.writer, m, part.n_heads, head_dim=8).apply(HEAD_SCORES["wanda"])
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)

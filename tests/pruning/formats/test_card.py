"""Model cards and formats: what they say is true."""

import re
from functools import partial

import pandas as pd
import pytest
import torch
import yaml
from tiny import tiny_model

import llmbrain as lb
from llmbrain.exceptions import (
    ParameterError,
    UnsupportedArchitectureError,
)
from llmbrain.pruning import FORMATS, Recipe

quick = partial(lb.prune, recipe="fast", measure=False, progress=False)
TEXTS = ["the cat sat on the mat and then the rain in spain fell on it " * 3 + str(i) * i for i in range(10)]
EXACT = ("llama", "qwen2", "qwen3", "mistral", "gemma", "gpt2")
SENTENCES = [f"the cat number {i} sat on the mat and then the rain in spain fell over hills {i * 7}" for i in range(16)]


@pytest.fixture(scope="module")
def pruned_models(tokenizer):
    return {n: quick(tiny_model(n), tokenizer, TEXTS, 0.3, options={"context": 48}) for n in EXACT}


def test_the_card_says_what_was_done(pruned_models, tmp_path):
    import pandas as pd

    results = pd.DataFrame({"model": ["dense", "pruned"], "perplexity": [10.0, 12.5]})
    pruned_models["llama"].save_pretrained(tmp_path / "m", results=results)
    text = (tmp_path / "m" / "README.md").read_text()
    assert "12.5" in text
    assert "`flap`" in text
    assert "trust_remote_code" in text


@pytest.mark.parametrize("compensation", ["none", "bias", "ridge", "affine"])
def test_the_card_claims_no_refit_that_was_not_made(compensation, model, tokenizer, tmp_path):
    options = {"context": 32, "reconstruct": "all", "refit_attention": True, "n_steps": 1}
    pruned = quick(model, tokenizer, SENTENCES, 0.5, allocation="uniform", compensation=compensation, options=options)
    pruned.save_pretrained(tmp_path / "m")
    card = (tmp_path / "m" / "README.md").read_text()
    assert ("Also refitted" in card) == (compensation in ("ridge", "affine"))
    assert ("nothing was refitted" in card) == (compensation == "none")
    changed = not torch.equal(
        pruned.model.model.layers[2].mlp.gate_proj.weight,
        model.model.layers[2].mlp.gate_proj.weight[torch.as_tensor(pruned.kept[2])],
    )
    assert changed == (compensation in ("ridge", "affine"))


def test_names_are_escaped_in_the_card(model, tokenizer, tmp_path):
    pruned = quick(model, tokenizer, SENTENCES, 0.5, options={"context": 32})
    pruned.summary["base_model"] = {"id": "evil\n---\nx: [y](z) <script>alert(1)</script> | # `"}
    results = pd.DataFrame({"a|b<img>": ["[x](y)\n# z"]})
    pruned.save_pretrained(tmp_path / "m", results=results)
    card = (tmp_path / "m" / "README.md").read_text()
    head, body = card.split("\n---\n", 1)
    assert "<script>" not in body and "<img>" not in body
    assert not re.search(r"(?<!\\)\]\(", body)  # every bracket of a link is escaped
    facts = yaml.safe_load(head.removeprefix("---\n"))  # not rendered: one quoted string, whatever is in it
    assert facts["base_model"] == pruned.summary["base_model"]["id"] and len(facts) == 3


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_is_described_in_the_card(format):
    assert FORMATS[format].loading and FORMATS[format].summary


def test_a_format_that_cannot_hold_the_result_is_refused_before_the_work():
    best = Recipe.named("best")
    fast = Recipe.named("fast").with_(compensation="ridge", allocation="uniform")
    for name, format, recipe, words in (
        ("llama", "uniform", best, "one width"),
        ("qwen3", "padded", best, "no place for the biases"),
    ):
        with pytest.raises(ParameterError, match=words):
            FORMATS[format].check(tiny_model(name), recipe)
    with pytest.raises(UnsupportedArchitectureError, match="hetero"):
        FORMATS["gguf"].check(tiny_model("gpt2"), best)
    for name, format, recipe in (("llama", "padded", best), ("qwen3", "uniform", fast), ("gpt2", "padded", best)):
        FORMATS[format].check(tiny_model(name), recipe)

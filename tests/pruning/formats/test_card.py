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
from llmbrain.pruning import FORMATS, Pruner, Recipe

quick = partial(lb.prune, recipe="fast", measure=False, progress=False)
TEXTS = ["the cat sat on the mat and then the rain in spain fell on it " * 3 + str(i) * i for i in range(10)]
SENTENCES = [f"the cat number {i} sat on the mat and then the rain in spain fell over hills {i * 7}" for i in range(16)]


def test_the_card_says_what_was_done(model, tokenizer, tmp_path):
    import pandas as pd

    pruned = quick(model, tokenizer, TEXTS, 0.3, options={"context": 48})
    results = pd.DataFrame({"model": ["dense", "pruned"], "perplexity": [10.0, 12.5]})
    pruned.save_pretrained(tmp_path / "m", results=results)
    text = (tmp_path / "m" / "README.md").read_text()
    assert "12.5" in text
    assert "`flap`" in text
    assert "trust_remote_code" in text


@pytest.mark.parametrize("compensation", ["none", "bias", "ridge", "affine"])
def test_the_card_claims_no_refit_that_was_not_made(compensation, model, tokenizer, tmp_path):
    options = {"context": 32, "refit_attention": True}
    pruned = quick(model, tokenizer, SENTENCES, 0.5, allocation="uniform", compensation=compensation, options=options)
    pruned.save_pretrained(tmp_path / "m")
    card = (tmp_path / "m" / "README.md").read_text()
    least_squares = compensation in ("ridge", "affine")
    assert ("was refitted by least squares, too" in card) == least_squares
    assert ("nothing was refitted" in card) == (compensation == "none")
    before, after = (m.model.layers[2].self_attn.o_proj.weight for m in (model, pruned.model))
    assert torch.equal(before, after) != least_squares


@pytest.mark.parametrize(
    ("options", "recover", "says"),
    [({"block_steps": 2}, None, "took 2 gradient steps"), ({}, 0.001, "was then trained for 0.001 minutes")],
)
def test_the_card_speaks_of_gradient_steps_where_there_were_any(options, recover, says, model, tokenizer, tmp_path):
    options = {"context": 32, **options}
    pruned = quick(model, tokenizer, SENTENCES, 0.5, allocation="uniform", options=options, recover=recover)
    pruned.save_pretrained(tmp_path / "m")
    card = (tmp_path / "m" / "README.md").read_text()
    assert says in card and "no gradient step" not in card


def test_names_are_escaped_in_the_card(model, tokenizer, tmp_path):
    pruned = quick(model, tokenizer, SENTENCES, 0.5, options={"context": 32})
    evil = "evil\n---\nx: [y](z) <script>alert(1)</script> | # `"
    pruned.summary["base_model"] = {"id": evil, "origin": {"base_model": evil, "license": evil}}
    quality = {"text": evil, "prompt": evil, "written_before": evil, "written_after": evil, "n_tokens": 9, "context": 4}
    pruned.summary["quality"] = quality | {"perplexity_before": 2.0, "perplexity_after": 3.0}
    results = pd.DataFrame({"a|b<img>": ["[x](y)\n# z"]})
    pruned.save_pretrained(tmp_path / "m", results=results)
    card = (tmp_path / "m" / "README.md").read_text()
    head, body = card.split("\n---\n", 1)
    assert "<script>" not in body and "<img>" not in body
    assert not re.search(r"(?<!\\)\]\(", body)  # every bracket of a link is escaped
    facts = yaml.safe_load(head.removeprefix("---\n"))  # not rendered: one quoted string, whatever is in it
    assert facts["base_model"] == facts["license"] == evil and len(facts) == 4


def test_the_card_names_licence_base_text_size_and_perplexity(model, tokenizer, tmp_path):
    """What it says of the text and of the size is what a measurement of the saved model gives."""
    held_out = ["the dog number 99 sat on the hill and then the rain fell over the mat of the cat"]
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    (tmp_path / "base" / "README.md").write_text("---\nlicense: mit\nbase_model: owner/large\n---\n")
    dense, _ = lb.load_model(tmp_path / "base")
    pruned = quick(dense, tokenizer, SENTENCES, 0.5, options={"context": 32}, test_text=held_out)
    folder = pruned.save_pretrained(tmp_path / "m")
    card = (folder / "README.md").read_text()
    facts = yaml.safe_load(card.split("---\n")[1])
    assert (facts["license"], facts["base_model"]) == ("mit", "owner/large")
    quality = pruned.summary["quality"]
    again = lb.perplexity(lb.load_model(folder)[0], tokenizer, held_out, context=quality["context"])
    assert quality["perplexity_after"] == pytest.approx(again, rel=1e-3)
    assert quality["perplexity_before"] == pytest.approx(
        lb.perplexity(dense, tokenizer, held_out, context=512), rel=1e-3
    )
    assert held_out[0].startswith(quality["prompt"]) and quality["n_tokens"] > 10
    files = [path for path in folder.rglob("*") if path.name not in ("README.md", "llmbrain_pruning.json")]
    assert f"On disk: {sum(path.stat().st_size for path in files) / 1e6:,.1f} MB in {len(files)} files" in card
    size = sum(path.stat().st_size for path in files) / 1e6
    assert f"saved: {size:,.1f} MB, weights in float32; load the model with dtype='bfloat16'" in pruned.describe()


def test_a_folder_keeps_the_precision_of_the_model_and_names_it(tokenizer, tmp_path):
    from safetensors.torch import load_file

    half = quick(tiny_model("llama").to(torch.bfloat16), tokenizer, SENTENCES, 0.5, options={"context": 32})
    assert "saved" not in half.describe()
    folder = half.save_pretrained(tmp_path / "m")
    assert {w.dtype for w in load_file(folder / "model.safetensors").values()} == {torch.bfloat16}
    assert half.describe().splitlines()[-1].endswith("MB, weights in bfloat16")
    assert "weights in bfloat16." in (folder / "README.md").read_text()


def test_a_model_of_unknown_origin_claims_no_base_and_no_licence(model, tokenizer, tmp_path):
    quick(model, tokenizer, SENTENCES, 0.5, options={"context": 32}).save_pretrained(tmp_path / "m")
    card = (tmp_path / "m" / "README.md").read_text()
    facts = yaml.safe_load(card.split("---\n")[1])
    assert "license" not in facts and "base_model" not in facts and "name no licence" in card


def test_speed_is_claimed_only_beyond_noise():
    from llmbrain.pruning.formats.card import gain_in_words

    speed = {"prompt": 9, "repeats": 5, "prefill_gain": 1.2, "prefill_gain_low": 1.1, "prefill_gain_high": 1.3}
    assert gain_in_words(speed, "prefill").startswith("reading 9 tokens at once: 1.20 times the speed (1.10 to 1.30")
    assert "no difference" in gain_in_words(speed | {"prefill_gain_low": 0.9}, "prefill")
    assert gain_in_words(speed, "decode") == ""


@pytest.mark.parametrize("recipe", ["fast", "flap"])
def test_a_uniform_folder_is_decided_before_the_work(recipe, model, tokenizer, tmp_path, monkeypatch):
    """Named as the format, it sets the allocation; another allocation is refused without a walk of the model."""
    options = {"context": 32}
    given = {"recipe": recipe, "format": "uniform", "options": options, "measure": False, "progress": False}
    pruned = lb.prune(model, tokenizer, SENTENCES, 0.5, compensation="ridge", **given)
    folder = pruned.save_pretrained(tmp_path / "m")
    assert len(set(pruned.summary["n_kept"])) == 1 and lb.load_model(folder)[0] is not None
    monkeypatch.setattr(Pruner, "run", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ParameterError, match="one width"):
        lb.prune(model, tokenizer, SENTENCES, 0.5, allocation="global", **given)


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

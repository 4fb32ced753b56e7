"""Pruning real modules: slicing equals masking, GQA stays paired, walks equal the model, folders load exactly."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from tiny import REFUSED, tiny_model, tiny_tokenizer

import llmbrain as lb
from llmbrain.exceptions import (
    CorpusError,
    GeometryMismatchError,
    ModelNotFoundError,
    ParameterError,
    UnsupportedArchitectureError,
)
from llmbrain.models.anatomy import weight_of
from llmbrain.models.surgery import (
    prunable_mlps,
)
from llmbrain.pruning import Options
from llmbrain.pruning.cut import cut
from llmbrain.pruning.pruned import load_pruned
from llmbrain.pruning.walk import (
    Walk,
    calibration_blocks,
    calibration_hash,
    gather,
    n_calibration_tokens,
    writes_to_stream,
)

quick = partial(lb.prune, recipe="fast", measure=False, progress=False)
TEXTS = ["the cat sat on the mat and then the rain in spain fell on it " * 3 + str(i) * i for i in range(10)]
EXACT = ("llama", "qwen2", "qwen3", "mistral", "gemma", "gpt2")


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def ids():
    return torch.randint(0, 256, (2, 17), generator=torch.Generator().manual_seed(0))


def logits(model, ids):
    with torch.no_grad():
        return model(ids).logits


@pytest.mark.parametrize("name", [*REFUSED])
def test_models_that_cannot_be_sliced_are_refused(name, tokenizer):
    with pytest.raises(UnsupportedArchitectureError):
        quick(tiny_model(name), tokenizer, TEXTS, 0.2)


def test_offloaded_and_quantised_models_are_refused(tokenizer):
    model = tiny_model("llama")
    model.model.layers[1].mlp.down_proj.to("meta")
    with pytest.raises(UnsupportedArchitectureError, match="offloaded"):
        quick(model, tokenizer, TEXTS, 0.2)
    model = tiny_model("llama")
    linear = model.model.layers[1].mlp.down_proj
    linear.weight = torch.nn.Parameter(linear.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(UnsupportedArchitectureError, match="quantised"):
        quick(model, tokenizer, TEXTS, 0.2)


# -- calibration ----------------------------------------------------------------------------------------------------
def test_blocks_hold_every_token_once(tokenizer):
    blocks = calibration_blocks(tokenizer, TEXTS, context=40, batch_size=3)
    n_text = sum(len(tokenizer(t, add_special_tokens=False)["input_ids"]) for t in TEXTS)
    n_windows = sum(len(block) for block in blocks)
    assert n_calibration_tokens(blocks) == n_text + n_windows  # every window begins with BOS
    assert all((block.ids[:, 0] == tokenizer.bos_token_id).all() for block in blocks)
    assert n_calibration_tokens(calibration_blocks(tokenizer, TEXTS, context=40, n_tokens=100)) == 100
    again = calibration_blocks(tokenizer, TEXTS, context=40, batch_size=3)
    assert calibration_hash(blocks) == calibration_hash(again)
    assert calibration_hash(blocks) != calibration_hash(blocks[:-1])
    with pytest.raises(CorpusError):
        calibration_blocks(tokenizer, ["x"])


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "gemma3", "opt", "phi", "falcon", "bloom", "gptj"])
def test_walking_layer_by_layer_is_running_the_model(name, tokenizer):
    model = tiny_model(name)
    blocks = calibration_blocks(tokenizer, TEXTS, context=48, batch_size=4)
    walk = Walk(model, blocks)
    walk.check()
    seen = []
    handle = walk.layers[-1].register_forward_hook(lambda m, a, o: seen.append(o[0] if isinstance(o, tuple) else o))
    with torch.no_grad():
        for block in blocks:
            model(**block.inputs("cpu"))
    handle.remove()
    for i in range(len(walk.layers)):
        walk.advance(i)
    for got, want, mask in zip(walk.hidden, seen, walk.masks):
        torch.testing.assert_close(got[mask], want[mask], rtol=1e-4, atol=1e-4)


def test_statistics_leave_padding_out(tokenizer):
    model = tiny_model("llama")
    part = prunable_mlps(model)[2]
    found = []
    for batch_size in (1, 4):
        walk = Walk(model, calibration_blocks(tokenizer, TEXTS, context=48, batch_size=batch_size))
        for layer in range(2):
            walk.advance(layer)
        found.append(gather(walk, 2, part.writer)[0])
    assert found[0].n == found[1].n
    torch.testing.assert_close(found[0].covariance, found[1].covariance, rtol=1e-3, atol=1e-5)


def test_where_a_norm_stands_between_the_target_is_the_layer(tokenizer):
    blocks = calibration_blocks(tokenizer, TEXTS, context=48)
    for name, direct in (("llama", True), ("gpt2", True), ("gemma2", False), ("granite", False)):
        model = tiny_model(name, **({"residual_multiplier": 0.3} if name == "granite" else {}))
        walk = Walk(model, blocks)
        assert writes_to_stream(walk, 0, prunable_mlps(model)[0].writer) == direct, name


# -- prune ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "phi3", "opt"])
def test_budget_and_account(name, tokenizer):
    model = tiny_model(name)
    before = copy.deepcopy(model.state_dict())
    pruned = quick(model, tokenizer, TEXTS, 0.25, options={"context": 48})
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())  # the dense model is left alone
    s = pruned.summary
    assert s["neurons_before"] - s["neurons_after"] == 48 == pruned.mask.count
    assert s["total_parameters_after"] == sum(p.numel() for p in pruned.model.parameters())
    assert [len(k) for k in pruned.kept] == s["n_kept"] == [p.size for p in prunable_mlps(pruned.model)]


def test_ratio_of_parameters(tokenizer):
    model = tiny_model("llama")
    for ratio_of, key in (("decoder", "decoder_parameters"), ("all", "total_parameters")):
        pruned = quick(model, tokenizer, TEXTS, 0.1, ratio_of=ratio_of, compensation="none", score="magnitude",
                          allocation="uniform", options={"context": 48})  # fmt: skip
        assert pruned.summary[key + "_removed"] == pytest.approx(0.1, abs=0.01)
    with pytest.raises(ParameterError, match="below"):
        quick(model, tokenizer, TEXTS, 0.95, ratio_of="all")


@pytest.mark.parametrize("score", ["random", "magnitude", "wanda", "flap", "obs", "greedy_obs", "leverage"])
def test_every_score_and_allocation_runs(score, tokenizer, ids):
    model = tiny_model("llama")
    for allocation in ("uniform", "global", "threshold", "schur"):
        pruned = quick(model, tokenizer, TEXTS[:4], 0.3, score=score, allocation=allocation, compensation="none",
                          options={"context": 48, "propagation": "one-shot"})  # fmt: skip
        assert bool(torch.isfinite(logits(pruned.model, ids)).all())


def test_ratio_zero_is_bit_identical(tokenizer, ids):
    for name in ("llama", "gpt2"):
        model = tiny_model(name)
        assert torch.equal(logits(quick(model, tokenizer, TEXTS, 0).model, ids), logits(model, ids))


@pytest.mark.parametrize(
    "arguments",
    [
        {"ratio": 1.0}, {"ratio": -0.1}, {"ratio": 20}, {"ratio": True}, {"ratio": "half"},
        {"ratio_of": "layers"}, {"score": "best"}, {"allocation": "fair"}, {"compensation": "magic"},
        {"options": {"flor": 0.1}}, {"options": {"round_to": 0}}, {"options": {"ridge": -1}},
        {"options": {"exempt": [0, 1, 2]}, "ratio": 0.5}, {"score": "network"}, {"allocation": [1, 2, 3]},
        {"options": {"target": "moon"}},
    ],
)  # fmt: skip
def test_bad_input_is_refused(arguments, tokenizer):
    with pytest.raises(ParameterError):
        quick(tiny_model("llama"), tokenizer, TEXTS, **{"ratio": 0.2, "options": {"context": 48}, **arguments})


def test_networks_of_another_model_are_refused(tokenizer):
    with pytest.raises(GeometryMismatchError, match="192"):
        quick(tiny_model("llama"), tokenizer, TEXTS, score="network", networks=np.ones((3, 100)))


def test_networks_choose_what_stays(tokenizer):
    maps = np.random.default_rng(0).standard_normal((5, 192))
    pruned = quick(tiny_model("llama"), tokenizer, TEXTS, 0.5, score="network", networks=maps,
                      allocation="threshold", compensation="none")  # fmt: skip
    best = np.sort(np.argsort(-np.abs(maps).max(0))[:96])
    flat = np.concatenate([k + pruned.geometry.offsets[i] for i, k in enumerate(pruned.kept)])
    np.testing.assert_array_equal(flat, best)


def test_seeds_decide_random_choices_alone(tokenizer):
    model = tiny_model("llama")
    kwargs = {"score": "random", "allocation": "uniform", "compensation": "none"}
    a, b, c = (quick(model, tokenizer, TEXTS, 0.4, random_state=s, **kwargs).kept for s in (1, 1, 2))
    assert all(np.array_equal(x, y) for x, y in zip(a, b))
    assert not all(np.array_equal(x, y) for x, y in zip(a, c))
    assert not np.array_equal(a[0], a[1])


def test_exempt_layers_stay_whole(tokenizer):
    model = tiny_model("llama")
    pruned = quick(model, tokenizer, TEXTS, 0.3, allocation="threshold", options={"exempt": [0, -1], "context": 48})
    assert pruned.summary["n_kept"][0] == pruned.summary["n_kept"][-1] == 48
    assert torch.equal(pruned.model.model.layers[0].mlp.down_proj.weight, model.model.layers[0].mlp.down_proj.weight)


def test_sequential_equals_one_shot_when_nothing_is_removed_upstream(tokenizer):
    """Only the last layer is cut, so what reaches it is dense in both modes."""
    weights = []
    for propagation in ("sequential", "one-shot"):
        model = tiny_model("llama")
        kept = [np.arange(48)] * 3 + [np.arange(20)]
        blocks = calibration_blocks(tokenizer, TEXTS, context=48)
        cut(model, blocks, kept, "affine", Options(propagation=propagation, ridge=0.01))
        weights.append(weight_of(prunable_mlps(model)[3].writer).detach().clone())
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-3, atol=1e-4)


def test_sequential_refit_is_least_squares_on_the_pruned_prefix(tokenizer):
    """The second layer's weights, solved by hand from the activations of the model that was pruned up to it."""
    model = tiny_model("llama")
    blocks = calibration_blocks(tokenizer, [TEXTS[0]], context=32, batch_size=4)
    options = Options(ridge=1e-6, target="layer")
    kept = [np.arange(30), np.arange(25), np.arange(48), np.arange(48)]
    dense_weight = weight_of(prunable_mlps(model)[1].writer).detach().clone()
    reference = copy.deepcopy(model)
    cut(reference, blocks, [kept[0]] + [np.arange(48)] * 3, "affine", options)
    walk = Walk(reference, blocks)
    walk.advance(0)
    moments = gather(walk, 1, prunable_mlps(reference)[1].writer)[0]
    from llmbrain.pruning.compensation import compensate

    wanted = compensate(dense_weight, moments, torch.arange(25), "affine", 1e-6)
    cut(model, blocks, kept, "affine", options)
    torch.testing.assert_close(weight_of(prunable_mlps(model)[1].writer).double(), wanted.weight, rtol=1e-2, atol=1e-3)


def test_compensation_brings_the_model_closer(tokenizer, ids):
    model = tiny_model("llama")
    blocks = calibration_blocks(tokenizer, TEXTS, context=48)
    gap = {}
    for method in ("none", "bias", "affine"):
        pruned = quick(model, tokenizer, TEXTS, 0.4, allocation="uniform", compensation=method,
                          options={"context": 48, "ridge": 1e-3})  # fmt: skip
        gap[method] = float((logits(pruned.model, blocks[0].ids) - logits(model, blocks[0].ids)).square().mean())
    assert gap["affine"] < 0.5 * gap["none"]
    assert gap["bias"] < gap["none"]


# -- folders --------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def pruned_models(tokenizer):
    return {n: quick(tiny_model(n), tokenizer, TEXTS, 0.3, options={"context": 48}) for n in EXACT}


@pytest.mark.parametrize("name", EXACT)
def test_hetero_folders_load_exactly(name, pruned_models, ids, tmp_path):
    import transformers

    pruned = pruned_models[name]
    pruned.save_pretrained(tmp_path / "m")
    want = logits(pruned.model, ids)
    ours, tokenizer = lb.load_model(tmp_path / "m")
    assert torch.equal(logits(ours, ids), want)
    assert tokenizer("the cat")["input_ids"] == tiny_tokenizer()("the cat")["input_ids"]
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "m", trust_remote_code=True).eval()
    assert torch.equal(logits(theirs, ids), want)
    config = theirs.config.to_dict()
    assert len(config["per_layer_config"]) == 4
    kwargs = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 258}
    assert torch.equal(theirs.generate(ids, **kwargs), pruned.model.generate(ids, **kwargs))
    back = load_pruned(tmp_path / "m")
    assert all(np.array_equal(a, b) for a, b in zip(back.kept, pruned.kept))
    assert all(np.array_equal(a, b) for a, b in zip(back.scores, pruned.scores))
    assert back.geometry == pruned.geometry
    back.save_pretrained(tmp_path / "again")
    assert torch.equal(logits(lb.load_model(tmp_path / "again")[0], ids), want)


def test_stock_loading_without_remote_code_fails_loudly(pruned_models, tmp_path):
    import transformers

    pruned_models["llama"].save_pretrained(tmp_path / "m")
    with pytest.raises((RuntimeError, ValueError)):
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "m")


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("format", ["padded", "uniform"])
def test_stock_folders_load_exactly(name, format, tokenizer, ids, tmp_path):
    import transformers

    allocation = "uniform" if format == "uniform" else "schur"
    pruned = quick(tiny_model(name), tokenizer, TEXTS, 0.3, allocation=allocation, compensation="ridge",
                      options={"context": 48})  # fmt: skip
    pruned.save_pretrained(tmp_path / "m", format=format)
    stock = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "m").eval()
    assert type(stock) is type(tiny_model(name))
    torch.testing.assert_close(logits(stock, ids), logits(pruned.model, ids), rtol=0, atol=1e-6)
    assert torch.equal(logits(lb.load_model(tmp_path / "m")[0], ids), logits(stock, ids))


def test_biases_go_where_the_stock_config_has_room(pruned_models, ids, tmp_path):
    import transformers

    for name in ("llama", "gpt2"):
        pruned = pruned_models[name]
        assert prunable_mlps(pruned.model)[0].writer.bias is not None
        pruned.save_pretrained(tmp_path / name, format="padded")
        stock = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / name).eval()
        # zeros add nothing, but a wider sum may be added up in another order
        torch.testing.assert_close(logits(stock, ids), logits(pruned.model, ids), rtol=0, atol=1e-6)
    with pytest.raises(ParameterError, match="ridge"):
        pruned_models["qwen3"].save_pretrained(tmp_path / "q", format="padded")
    assert not (tmp_path / "q").exists()
    with pytest.raises(ParameterError, match="padded"):
        pruned_models["llama"].save_pretrained(tmp_path / "q", format="uniform")
    with pytest.raises(ParameterError, match="hetero"):
        pruned_models["llama"].save_pretrained(tmp_path / "q", format="zip")


def test_interrupted_saving_leaves_the_old_folder(pruned_models, ids, tmp_path, monkeypatch):
    pruned = pruned_models["llama"]
    pruned.save_pretrained(tmp_path / "m")
    import llmbrain.pruning.pruned as checkpoint

    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "model_card", stop)
    with pytest.raises(KeyboardInterrupt):
        pruned_models["gpt2"].save_pretrained(tmp_path / "m")
    assert [p.name for p in tmp_path.iterdir()] == ["m"]
    assert torch.equal(logits(lb.load_model(tmp_path / "m")[0], ids), logits(pruned.model, ids))


def test_saving_leaves_the_model_as_it_is(pruned_models, ids, tmp_path):
    pruned = pruned_models["qwen2"]
    before, config = logits(pruned.model, ids), pruned.model.config.to_dict()
    pruned.save_pretrained(tmp_path / "m")
    assert torch.equal(logits(pruned.model, ids), before)
    assert pruned.model.config.to_dict() == config


def test_a_folder_without_a_pruned_model_is_refused(tmp_path):
    with pytest.raises(ModelNotFoundError, match="llmbrain_pruning"):
        load_pruned(tmp_path)


def test_the_card_says_what_was_done(pruned_models, tmp_path):
    import pandas as pd

    results = pd.DataFrame({"model": ["dense", "pruned"], "perplexity": [10.0, 12.5]})
    pruned_models["llama"].save_pretrained(tmp_path / "m", results=results)
    text = (tmp_path / "m" / "README.md").read_text()
    assert "12.5" in text
    assert "`flap`" in text
    assert "trust_remote_code" in text

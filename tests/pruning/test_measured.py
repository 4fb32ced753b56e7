"""Measurements are taken once, and of the right things."""

import gc
import weakref
from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch
from tiny import tiny_model

from llmbrain.pruning import SCORES, Pruner, Recipe, prune, run_grid
from llmbrain.pruning import published as network_scores
from llmbrain.pruning.calibration import calibration_windows
from llmbrain.pruning.cut import Cutter
from llmbrain.pruning.measured import Measurements

SENTENCES = [f"the cat number {i} sat on the mat and then the rain in spain fell over hills {i * 7}" for i in range(16)]


def test_every_array_of_scores_is_read_anew(model, tokenizer):
    """Lists that take the place of freed ones, and lists that were changed in place, are not taken for one another."""
    pruner = Pruner(model, tokenizer, SENTENCES)
    choices = [np.sort(np.random.default_rng(i).permutation(48)[:24]) for i in range(2)]

    def kept(score):
        return pruner.prune(Recipe(score, "uniform", "none", {"context": 48}), 0.5).kept[3].tolist()

    def scores(best):
        return [np.isin(np.arange(48), best).astype(float) for _ in range(4)]

    first, others = scores(choices[0]), []
    place = id(first)
    assert kept(first) == choices[0].tolist()
    del first
    while len(others) < 1000 and place not in map(id, others[-1:]):
        others.append(scores(choices[1]))
    assert kept(others[-1]) == choices[1].tolist()
    mine = scores(choices[0])
    for best in (choices[0], choices[1], choices[0]):
        for layer in mine:
            layer[:] = np.isin(np.arange(48), best)
        assert kept(mine) == best.tolist() and kept(scores(choices[0])) == choices[0].tolist()


def test_functions_are_kept_as_long_as_what_they_gave(model, tokenizer):
    pruner = Pruner(model, tokenizer, SENTENCES)

    def ranked(sign):
        return lambda part, moments: sign * torch.arange(part.size, dtype=torch.float64)

    seen = []
    for sign in (1, -1):
        score = ranked(sign)
        seen.append(weakref.ref(score))
        kept = pruner.prune(Recipe(score, "uniform", "none", {"context": 48}), 0.5).kept
        assert kept[0].tolist() == (list(range(24, 48)) if sign > 0 else list(range(24)))
        del score
        gc.collect()
    assert all(ref() is not None for ref in seen)


@pytest.mark.parametrize(
    ("how", "finder"), [("layers", "layer_networks"), ("joint", "joint_networks"), ("published", "published_networks")]
)
def test_networks_are_found_on_the_windows_of_the_calibration(how, finder, model, tokenizer):
    """They are those of exactly these tokens and this context, and the summary says so."""
    options = {"context": 32, "max_tokens": 200, "network_tokens": 100}
    measured = Measurements(model, tokenizer, SENTENCES).of(Recipe("network", options=options, networks=how), 3)
    windows = calibration_windows(tokenizer, SENTENCES, context=32, max_tokens=200)
    assert sum(map(len, windows)) == sum(b.n_tokens for b in measured.blocks) <= 200 and max(map(len, windows)) == 32
    cap = {"max_tokens": 100} if how == "joint" else {}
    wanted = getattr(network_scores, finder)(model, None, windows, context=32, random_state=3, **cap)
    for found, expected in zip(measured.maps, wanted.maps):
        torch.testing.assert_close(found, expected.double())
    told = measured.describe_networks()
    assert told["kind"] == how and told["context"] == 32 and told["random_state"] == 3
    read = told["n_tokens"] if how == "joint" else sum(g["n_tokens"] for g in told["groups"])
    assert read == (100 if how == "joint" else sum(map(len, windows)))


def test_the_survey_keeps_the_streams_that_the_cut_follows(tokenizer, monkeypatch):
    """The cut model has the bits of one whose dense streams were computed again, as where memory is short."""
    from llmbrain.pruning import measured

    options = {"allocation": "power", "options": {"context": 32}, "measure": False}
    cut = partial(prune, calibration=SENTENCES, recipe="fast", **options)
    model, steps, step = tiny_model("llama"), [], Cutter._dense_step

    def noted(self, layer, attention):
        steps.append(layer in (self.streams or {}))
        return step(self, layer, attention)

    monkeypatch.setattr(Cutter, "_dense_step", noted)
    shared = cut(model, tokenizer).model.state_dict()
    monkeypatch.setattr(measured, "KEPT_VALUES", 0)
    alone = cut(model, tokenizer).model.state_dict()
    half = len(steps) // 2
    assert steps == [True] * half + [False] * half and half
    assert all(torch.equal(shared[name], value) for name, value in alone.items())


def test_one_walk_serves_the_grid(model, tokenizer, monkeypatch):
    """All scores, sensitivities and ratios come from one survey, networks among them."""
    from llmbrain.pruning import measured

    asked, found = [], Counter()
    survey, find = measured.survey, measured.find_networks

    def counted(walk, parts, scores, **kwargs):
        asked.append((sorted(key[-2] if key[-2] in SCORES else "?" for key in scores), kwargs["schur"]))
        return survey(walk, parts, scores, **kwargs)

    monkeypatch.setattr(measured, "survey", counted)
    monkeypatch.setattr(measured, "find_networks", lambda how, *a, **k: found.update([how]) or find(how, *a, **k))

    def run(recipes, **given):
        settings = {"seeds": (0,), "context": 32, "progress": False}
        return run_grid(model, tokenizer, SENTENCES, SENTENCES[:3], recipes, ratios=(0.2, 0.5), settings=settings)

    own = {"context": 32}
    same = run([
        Recipe("flap", "uniform", "none", own, "layers"), Recipe("wanda", "schur", "none", own, "layers"),
        Recipe("flap", "networks", "none", {**own, "floor": 0.1}, "layers", "more"),
    ])  # fmt: skip
    assert asked == [(["flap", "network", "wanda"], True)] and found == {"layers": 1} and len(same) == 7
    asked.clear()
    found.clear()
    run([
        Recipe("network", "uniform", "none", own, "layers"),
        Recipe("network", "uniform", "none", own, "joint", "joint"),
        Recipe("network", "uniform", "none", {**own, "token_weights": "stream"}, "layers", "stream"),
    ])  # fmt: skip
    assert [names for names, _ in asked] == [["network"] * 3]  # also under two weightings of the tokens
    assert found == {"layers": 1, "joint": 1}

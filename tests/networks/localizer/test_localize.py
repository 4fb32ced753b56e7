"""Localizers: planted neurons are found at the promised false discovery rate, meaningless labels find none."""

import numpy as np
import pandas as pd
import pytest

from llmbrain.dataset import Study
from llmbrain.exceptions import ParameterError
from llmbrain.geometry import NeuronGeometry
from llmbrain.networks.localizer import localize as loc
from llmbrain.networks.localizer import statistics
from llmbrain.networks.localizer.design import item_design, item_table
from llmbrain.networks.localizer.localize import SIDES
from llmbrain.stats import fdr

N_NEURONS = 600


def experiment(effect=1.0, n_items=24, n_planted=60, n_runs=2, item_sd=0.5, seed=0, length=(8, 16)):
    """Items of two conditions; the first `n_planted` neurons differ, all have item effects and smooth noise."""
    rng = np.random.default_rng(seed)
    runs, events = [], []
    for run in range(n_runs):
        frames, blocks = [], []
        for i in range(n_items):
            n, kind = int(rng.integers(*length)), ("a", "b", "other")[i % 3 if i < 3 else i % 2]
            noise = rng.normal(size=(n, N_NEURONS))
            for t in range(1, n):
                noise[t] = 0.5 * noise[t - 1] + 0.87 * noise[t]
            noise += item_sd * rng.normal(size=N_NEURONS)
            noise[:, :n_planted] += effect * (kind == "a")
            blocks.append(noise)
            item = {"document": f"{kind}-{run}-{i}", "kind": kind, "position": range(n), "sink": 0}
            frames.append(pd.DataFrame(item))
        runs.append(np.concatenate(blocks).astype(np.float32))
        events.append(pd.concat(frames, ignore_index=True))
    return runs, events


def test_localizer_finds_the_planted_neurons_at_the_promised_fdr():
    false, power = [], []
    for seed in range(8):
        found = loc.localize(*experiment(seed=seed), ("a", "b")).selected(0.1)
        false.append(found[60:].sum() / max(1, found.sum()))
        power.append(found[:60].mean())
    assert np.mean(false) <= 0.1 and np.mean(power) > 0.9


def test_effect_sign_and_side():
    runs, events = experiment()
    found = loc.localize(runs, events, ("a", "b"))
    assert found.effect[:60].mean() == pytest.approx(1.0, abs=0.1) and found.z[:60].mean() > 3
    assert loc.localize(runs, events, ("b", "a")).effect[:60].mean() == pytest.approx(-1.0, abs=0.1)
    assert not found.selected(0.05, "less")[:60].any()
    assert np.array_equal(found.selected(0.05), found.selected(0.05, "more") | found.selected(0.05, "less"))
    assert set(found.items["condition"]) == {"a", "b"}


def test_items_are_the_unit_that_keeps_the_error_rate():
    # no effect at all, only items that differ: tokens as units, even with AR(1) noise, find "localized" neurons
    rate = {"item": [], "ar1": [], "ols": []}
    for seed in range(3):
        runs, events = experiment(effect=0.0, seed=seed)
        rate["item"].append(np.nanmean(loc.localize(runs, events, ("a", "b")).p <= 0.05))
        for noise in ("ar1", "ols"):
            token = loc.localize(runs, events, ("a", "b"), unit="token", noise_model=noise)
            rate[noise].append(np.nanmean(token.p <= 0.05))
    mean = {k: np.mean(v) for k, v in rate.items()}
    assert abs(mean["item"] - 0.05) < 0.02
    assert mean["ols"] > mean["ar1"] > 0.15


def test_token_model_is_nilearn_s_and_right_without_item_effects():
    from nilearn.glm import compute_contrast, fdr_threshold
    from nilearn.glm.first_level import run_glm

    runs, events = experiment(item_sd=0.0, n_runs=1)
    found = loc.localize(runs, events, ("a", "b"), unit="token")
    plain = loc.localize(runs, events, ("a", "b"), unit="token", noise_model="ols")
    # the autoregressive model mends most, not all, of what smooth noise does to a short run
    rate, without = ((x.p[60:] <= 0.05).mean() for x in (found, plain))
    assert rate < 0.16 < without and found.selected(0.05)[:60].mean() > 0.95
    keep = events[0]["kind"].isin(("a", "b")).to_numpy()
    frame = events[0][keep]
    log_position = np.log1p(frame["position"])
    x = np.column_stack([np.where(frame["kind"] == "a", 0.5, -0.5), np.ones(keep.sum()), log_position])
    contrast = compute_contrast(*run_glm(runs[0][keep].astype(float), x, noise_model="ar1"), [1, 0, 0])
    inside = np.abs(contrast.z_score()) < 7
    assert np.allclose(found.z[inside], contrast.z_score()[inside], atol=0.02)
    threshold = fdr_threshold(found.z, 0.05)  # nilearn's is one-sided
    one_sided = fdr(np.where(found.z > 0, found.p / 2, 1 - found.p / 2)) <= 0.05
    assert np.array_equal(one_sided, found.z >= threshold)


def test_pairs_sharpen_the_contrast():
    # each item of a has a twin in b that shares its large item effect
    rng = np.random.default_rng(1)
    twin = 3 * rng.normal(size=(12, N_NEURONS))
    blocks, frames = [], []
    for i in range(24):
        kind = "ab"[i % 2]
        x = twin[i // 2] + rng.normal(size=(10, N_NEURONS))
        x[:, :60] += 0.8 * (kind == "a")
        blocks.append(x)
        frames.append(pd.DataFrame({"document": f"{kind}-{i // 2}", "kind": kind, "position": range(10)}))
    runs, events = [np.concatenate(blocks)], [pd.concat(frames, ignore_index=True)]
    paired = loc.localize(runs, events, ("a", "b"), covariates=(), pairs=lambda item: item.split("-")[1])
    alone = loc.localize(runs, events, ("a", "b"), covariates=())
    assert paired.selected()[:60].mean() > 0.8 and alone.selected()[:60].mean() < 0.1
    assert paired.info["dof"] == 11  # 24 items, a constant, 11 further pairs, the contrast


def test_permuted_labels_find_nothing():
    runs, events = experiment(effect=0.0, n_runs=1)
    frames = [loc.choose_tokens(e, ("a", "b")) for e in events]
    items = item_table(frames)
    data = loc.item_means(runs, frames, items)
    design = item_design(items, frames, ("a", "b"))
    counts, largest = statistics.permuted_discoveries(data, design, n_draws=60)
    assert (counts > 0).mean() < 0.15 and 2.5 < np.quantile(largest, 0.95) < 6
    # the unpermuted fit of the same function agrees with the general linear model
    effect, z, p, dof = statistics.contrast_glm(data, design)
    assert np.abs(z).max() < np.quantile(largest, 0.999) + 1


def test_design_refuses_what_cannot_be_told_apart():
    runs, events = experiment(n_runs=1)
    only_a, only_b = (events[0][events[0]["kind"] == k] for k in "ab")
    with pytest.raises(ParameterError, match="confounded with runs"):
        loc.localize([runs[0][only_a.index], runs[0][only_b.index]], [only_a, only_b], ("a", "b"))
    with pytest.raises(ParameterError, match="0 items"):
        loc.localize(runs, events, ("a", "missing"))
    with pytest.raises(ParameterError, match="two different"):
        loc.localize(runs, events, ("a", "a"))
    with pytest.raises(ParameterError, match="covariate"):
        loc.localize(runs, events, ("a", "b"), covariates=("mood",))
    small = [events[0][events[0]["document"].isin(["a-0-0", "b-0-1", "a-0-4", "b-0-3"])].reset_index(drop=True)]
    with pytest.raises(ParameterError, match="observations"):
        loc.localize([runs[0][: len(small[0])]], small, ("a", "b"), covariates=("log_length", "position"))


def test_dead_neurons_sinks_and_magnitude():
    runs, events = experiment(n_runs=1)
    runs[0][:, 5] = 1.0
    events[0].loc[events[0]["position"] == 0, "sink"] = 1
    spoiled = runs[0].copy()
    spoiled[events[0]["sink"] == 1] += 1e4
    clean, also = (loc.localize([x], events, ("a", "b")) for x in (runs[0], spoiled))
    assert np.array_equal(clean.z, also.z)  # sinks are left out
    assert np.isnan(clean.p[5]) and clean.z[5] == 0 and not clean.selected(0.99)[5]
    runs[0][:, 6] *= np.sign(np.random.default_rng(0).normal(size=len(runs[0])))
    runs[0][:, 6] += 6 * (events[0]["kind"] == "a") * np.sign(np.random.default_rng(1).normal(size=len(runs[0])))
    plain, size = (loc.localize(runs, events, ("a", "b"), magnitude=m) for m in (False, True))
    assert abs(plain.z[6]) < 3.5 < size.z[6]


def test_mask_and_overlap_with_networks():
    runs, events = experiment()
    geometry = NeuronGeometry.from_sizes([150] * 4)
    found = loc.localize(runs, events, ("a", "b"))
    mask = found.mask(geometry)
    assert mask.name == "a-b" and mask.count == found.selected().sum()
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(3, N_NEURONS)).astype(np.float32)
    maps[0, :60] += 6
    maps[1, 150:210] += 6
    table = statistics.localizer_overlap(mask.values, found.z, maps, maps > 3, layer_of=geometry.layer_of, n_draws=99)
    assert table["p"].tolist()[0] == 0.01 and table["enrichment"][0] > 2 and table["r"][0] > 0.5
    assert table["p"][1] > 0.05 and table["dice"][1] < 0.1
    # neurons of the same layer overlap by chance: expected is the hypergeometric mean of the layer
    in_layer = mask.values[:150].sum() * (maps[0, :150] > 3).sum() / 150
    assert table["expected"][0] == pytest.approx(in_layer, rel=0.1, abs=0.5)


def test_overlap_with_a_set_of_networks():
    from llmbrain.networks import NetworkSet

    runs, events = experiment()
    geometry = NeuronGeometry.from_sizes([150] * 4)
    maps = np.random.default_rng(0).normal(size=(3, N_NEURONS)).astype(np.float32)
    maps[0, :60] += 6
    maps[1, 150:210] += 6
    networks = NetworkSet(maps, geometry)
    networks.metrics["flagged"] = [False, True, False]
    found = loc.localize(runs, events, ("a", "b"))
    table = found.overlap(networks, 0.01, threshold=2.0, n_draws=99)
    masks = np.stack([m.values for m in networks.masks(2.0)])
    plain = statistics.localizer_overlap(
        found.selected(0.01), found.z, maps, masks, layer_of=geometry.layer_of, n_draws=99
    )
    pd.testing.assert_frame_equal(table.drop(columns="flagged"), plain)
    assert table["flagged"].tolist() == [False, True, False] and table["q"][0] < 0.05 < table["q"][1]
    with pytest.raises(ParameterError, match="600 neurons, the networks 10"):
        found.overlap(NetworkSet(maps[:, :10], NeuronGeometry.from_sizes([10])))


@pytest.mark.filterwarnings("ignore")
def test_shipped_localizer_on_a_tiny_model(tmp_path):
    from tiny import tiny_model, tiny_tokenizer

    model = tiny_model("llama")
    found = loc.run_localizer(model, tiny_tokenizer(), "arithmetic", record_options={"context": 128})
    geometry = NeuronGeometry.from_model(model)
    assert found.contrast == ("arithmetic", "prose") and found.z.shape == (geometry.n_neurons,)
    assert len(found.items) == 80 and found.info["localizer"] == "arithmetic"
    # digits against letters: even random weights tell them apart, so the mask is not empty
    assert found.selected(0.05).any()

    study = Study.create(tmp_path, {"id": "tiny", "weights_hash": "abc", "architecture": "x"}, "texts")
    files = found.save(study, geometry)
    assert len(files) == 4 and all(f.is_file() for f in files)


@pytest.mark.demo
@pytest.mark.filterwarnings("ignore")
def test_language_localizer_of_the_demo_model(demo_model):
    model, tokenizer = demo_model
    found = loc.run_localizer(model, tokenizer, "language")
    assert set(found.items["condition"]) == {"sentences", "shuffled"}
    # order of words matters to many neurons of a trained model, and to both sides
    assert found.selected(0.05).mean() > 0.01


@pytest.mark.parametrize("name", SIDES)
def test_sides_choose_neurons_by_the_sign_of_z(name):
    z = np.array([-2.0, 3.0, -1.0, 4.0])
    chosen = SIDES[name](z)
    assert chosen.shape == z.shape
    assert chosen.dtype == bool
    assert np.array_equal(SIDES["more"](z) | SIDES["less"](z), SIDES["both"](z))

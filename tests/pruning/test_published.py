"""Networks for pruning, as published and layer by layer."""

import torch
from tiny import tiny_model

from llmbrain.models.surgery import (
    prunable_mlps,
)
from llmbrain.pruning import layer_networks, published_networks


def test_published_networks_are_z_scores_over_both_signals(tokenizer, texts):
    model = tiny_model("llama")
    found = published_networks(model, tokenizer, texts[:20], n_components=6, group_size=10, n_groups=2)
    assert [tuple(m.shape) for m in found.maps] == [(12, 48)] * 4
    assert found.z.shape == (12, 192)
    assert [g["n_components"] for g in found.info["groups"]] == [6, 6]
    again = published_networks(model, tokenizer, texts[:20], n_components=6, group_size=10, n_groups=2)
    assert all(torch.equal(a, b) for a, b in zip(found.maps, again.maps))


def test_layer_networks_find_planted_sources(tokenizer, texts):
    """Neurons driven by one common factor are one network."""
    model = tiny_model("llama", intermediate_size=600)
    part = prunable_mlps(model)[1]
    with torch.no_grad():
        for reader in part.readers:
            weight = reader.module.weight
            weight[:40] = weight[0] + 0.05 * weight[:40]
    maps = layer_networks(model, tokenizer, texts[:20], n_components=4, context=64).maps[1]
    best = maps[:, :40].abs().mean(1).argmax()
    inside, outside = maps[best, :40].abs().mean(), maps[best, 40:].abs().mean()
    assert inside > 4 * outside

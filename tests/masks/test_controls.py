"""Control families: the contract of every member, and a family that a user adds."""

import numpy as np
import pytest

from llmbrain.exceptions import MaskError, ParameterError
from llmbrain.geometry import NeuronGeometry
from llmbrain.masks import CONTROLS, ControlFamily, NeuronMask, draw_control

GEOMETRY = NeuronGeometry.from_sizes([48, 37, 64], layers=[2, 5, 6])
HEADS = NeuronGeometry.from_sizes([32, 32], site="attention", n_heads=[4, 4])
DRAWN = [name for name in CONTROLS if "networks" not in CONTROLS[name].needs]


def given(geometry):
    """Everything that a family may need."""
    rng = np.random.default_rng(5)
    return {"importance": rng.random(geometry.n_neurons), "map": rng.random(geometry.n_neurons), "n_nearest": 5}


@pytest.mark.parametrize("name", DRAWN)
def test_every_family_draws_sets_of_the_right_size(name):
    network = np.random.default_rng(0).random(GEOMETRY.n_neurons) < 0.15
    before = network.copy()
    drawn = draw_control(name, network, GEOMETRY, 1, **given(GEOMETRY))
    assert drawn.dtype == bool
    assert drawn.shape == network.shape
    assert drawn.sum() == network.sum()
    np.testing.assert_array_equal(network, before)
    np.testing.assert_array_equal(drawn, draw_control(name, network, GEOMETRY, 1, **given(GEOMETRY)))
    other = draw_control(name, network, GEOMETRY, 2, **given(GEOMETRY))
    assert np.array_equal(drawn, other) != CONTROLS[name].random


@pytest.mark.parametrize("name", DRAWN)
def test_every_family_draws_whole_heads_for_heads(name):
    mask = NeuronMask.from_heads([(0, 2), (1, 3)], HEADS)
    drawn = NeuronMask(draw_control(name, mask.values, HEADS, 0, **given(HEADS)), HEADS)
    assert len(drawn.heads) == 2


@pytest.mark.parametrize("name", CONTROLS)
def test_every_family_says_what_is_missing(name):
    network = np.arange(GEOMETRY.n_neurons) < 9
    family = ControlFamily.parse(name)
    assert family.description
    assert family.n_drawn(7) == (0 if name not in DRAWN else 7 if CONTROLS[name].random else 1)
    for need in CONTROLS[name].needs:
        with pytest.raises(ParameterError, match=f"needs {need}="):
            draw_control(name, network, GEOMETRY, 0)
    if name in DRAWN:
        with pytest.raises(MaskError, match="empty"):
            draw_control(name, network & False, GEOMETRY, 0, **given(GEOMETRY))


def test_families_are_read_from_what_users_write():
    assert ControlFamily.parse(None).name == "random"
    assert ControlFamily.parse(("layer", "importance")).importance == "fluctuation"
    assert ControlFamily.parse("layer+mean") == ControlFamily("layer+mean", "layer+importance", "mean")
    assert ControlFamily.parse("top+norm") == ControlFamily("top+norm", "top", "norm")
    for bad in ("importance", "random+mean", "columns"):
        with pytest.raises(ParameterError, match="Unknown control family"):
            ControlFamily.parse(bad)


def test_a_family_of_ones_own_is_drawn_by_masks():
    @CONTROLS.register("weakest", needs=("importance",), random=False, description="the weakest of each layer")
    def weakest(values, layer_of, importance):
        control = np.zeros_like(values)
        control[np.argsort(importance)[: values.sum()]] = True
        return control

    try:
        importance = np.arange(GEOMETRY.n_neurons)
        mask = NeuronMask(importance > 140, GEOMETRY)
        assert mask.matched_control("weakest", importance).indices.tolist() == list(range(mask.count))
    finally:
        del CONTROLS._members["weakest"]

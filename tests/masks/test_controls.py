"""Control families: the contract of every member, and a family that a user adds."""

import numpy as np
import pytest

from llmbrain.exceptions import MaskError, ParameterError
from llmbrain.geometry import NeuronGeometry
from llmbrain.masks import CONTROLS, ControlFamily, NeuronMask, controls, draw_control

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


# ------------------------------------------------------------------------------------------------ members
layer_of_all = GEOMETRY.layer_of


def some_mask(seed=0, share=0.2, **kwargs):
    """A random set of neurons."""
    return NeuronMask(np.random.default_rng(seed).random(GEOMETRY.n_neurons) < share, GEOMETRY, **kwargs)


@pytest.mark.parametrize("by", ["layer", ("layer", "importance")])
def test_matched_controls_have_the_network_s_layout(by):
    mask, importance = some_mask(share=0.3), np.random.default_rng(5).random(149)
    control = mask.matched_control(by=by, importance=importance, random_state=1)
    np.testing.assert_array_equal(control.counts_per_layer, mask.counts_per_layer)
    assert (control & mask).count == 0
    assert control == mask.matched_control(by=by, importance=importance, random_state=1)
    assert control != mask.matched_control(by=by, importance=importance, random_state=2)


def test_random_controls_match_the_size_alone():
    mask = NeuronMask.from_layers([5], GEOMETRY)
    control = mask.matched_control(by=None, random_state=0)
    assert control.count == mask.count
    assert control.counts_per_layer[[0, 2]].sum() == mask.count


def test_a_crowded_layer_is_completed_from_the_network_itself():
    values = GEOMETRY.layer_of == 1
    values[np.flatnonzero(values)[:5]] = False
    importance = np.arange(149.0)
    for control in (
        controls.layer_matched(values, layer_of_all, 0),
        controls.importance_matched(values, layer_of_all, importance, 0),
    ):
        assert control.sum() == values.sum()
        assert control[np.flatnonzero(layer_of_all == 1)[:5]].all()  # all that is free is taken first
        assert controls.overlap_share(values, control) == pytest.approx((32 - 5) / 32)


def test_importance_matching_matches_importance_where_layer_matching_does_not():
    rng = np.random.default_rng(0)
    layer_of = np.repeat([0, 1, 2, 3], 500)
    importance = rng.lognormal(0, 2, 2000)
    network = np.zeros(2000, bool)  # the network holds mostly strong neurons
    network[rng.choice(2000, 60, replace=False, p=importance / importance.sum())] = True
    ranks = np.argsort(np.argsort(importance))
    by_layer = [controls.layer_matched(network, layer_of, s) for s in range(20)]
    by_both = [controls.importance_matched(network, layer_of, importance, s) for s in range(20)]
    own = ranks[network].mean()
    assert np.mean([ranks[c].mean() for c in by_layer]) < own - 300
    assert np.mean([ranks[c].mean() for c in by_both]) == pytest.approx(own, abs=25)
    assert len({c.tobytes() for c in by_both}) == 20


def test_draws_in_one_call_are_those_of_single_calls():
    """Seeds keep their controls: neurons were once drawn by one call each."""

    def one_by_one(order, inside, rng, n_nearest):
        free, chosen = np.flatnonzero(~inside).tolist(), []
        for rank in rng.permutation(np.flatnonzero(inside)).tolist():
            low = max(0, min(int(np.searchsorted(free, rank)) - n_nearest // 2, len(free) - n_nearest))
            if free:
                chosen.append(free.pop(low + int(rng.integers(min(n_nearest, len(free) - low)))))
        missing = np.count_nonzero(inside) - len(chosen)
        return order[np.r_[chosen, rng.choice(np.flatnonzero(inside), missing, replace=False)].astype(int)]

    for seed in range(300):
        rng = np.random.default_rng(seed)
        inside, n_nearest = rng.random(rng.integers(1, 40)) < rng.random(), int(rng.integers(1, 12))
        order, draws = rng.permutation(len(inside)), [np.random.default_rng(seed) for _ in range(2)]
        expected = one_by_one(order, inside, draws[0], n_nearest)
        np.testing.assert_array_equal(controls._nearest_free(order, inside, draws[1], n_nearest), expected)
        assert draws[0].random() == draws[1].random()


def test_every_free_neuron_is_drawn_alike_by_layer_matching():
    network = np.zeros(40, bool)
    network[:4] = True
    drawn = np.sum([controls.layer_matched(network, np.zeros(40, int), s) for s in range(2000)], axis=0)
    assert (drawn[:4] == 0).all()
    assert drawn[4:].min() > 150  # expected 222, standard deviation 14
    assert drawn[4:].max() < 300


def test_permuted_keeps_the_values_of_every_layer_and_the_overlaps_of_networks():
    z = np.random.default_rng(0).standard_normal((2, 149))
    moved = [controls.permuted(m, layer_of_all, 7) for m in z]
    for layer in range(3):
        inside = layer_of_all == layer
        np.testing.assert_array_equal(np.sort(moved[0][inside]), np.sort(z[0][inside]))
    a, b = z > 0.5
    pa, pb = controls.permuted(a, layer_of_all, 7), controls.permuted(b, layer_of_all, 7)
    assert (pa & pb).sum() == (a & b).sum()


def test_anti_network_and_top_take_the_ends_of_the_ranking():
    scores = np.arange(149.0)
    network = scores > 140
    anti = controls.anti_network(network, layer_of_all, scores, 0)
    last = np.flatnonzero(layer_of_all == 2)
    assert set(np.flatnonzero(anti)) <= set(last[: int(0.2 * 64)])
    assert anti.sum() == network.sum()
    np.testing.assert_array_equal(controls.top_matched(network, layer_of_all, scores), network)


def test_controls_refuse_what_they_cannot_match():
    with pytest.raises(MaskError, match="empty"):
        controls.random_set(np.zeros(5, bool))
    with pytest.raises(ParameterError, match="importance="):
        some_mask().matched_control(by=("layer", "importance"))
    with pytest.raises(ParameterError, match="Unknown control family"):
        some_mask().matched_control(by="column")
    with pytest.raises(ParameterError, match="NaN"):
        controls.importance_matched([1, 0], [0, 0], [np.nan, 1.0])
    with pytest.raises(ParameterError, match="shape"):
        controls.importance_matched([1, 0], [0, 0], [1.0])


def test_layers_of_other_neurons_are_refused():
    network, layer_of = np.arange(6) < 2, np.zeros(5, int)
    with pytest.raises(ParameterError, match="layer_of has the shape"):
        controls.layer_matched(network, layer_of, 0)
    with pytest.raises(ParameterError, match="layer_of has the shape"):
        controls.importance_matched(network, layer_of, np.arange(6.0), 0)

"""Sets of neurons: algebra, files, and the control sets drawn for them."""

import nibabel as nib
import numpy as np
import pytest

from llmbrain.exceptions import GeometryMismatchError, MaskError, ParameterError
from llmbrain.geometry import NeuronGeometry
from llmbrain.masks import NeuronMask, controls, masks_from_maps

GEOMETRY = NeuronGeometry.from_sizes([48, 37, 64], layers=[2, 5, 6])


def some_mask(seed=0, share=0.2, geometry=GEOMETRY, **kwargs):
    return NeuronMask(np.random.default_rng(seed).random(geometry.n_neurons) < share, geometry, **kwargs)


def test_set_algebra_is_that_of_boolean_arrays():
    a, b = some_mask(0), some_mask(1)
    for made, expected in [
        (a & b, a.values & b.values),
        (a | b, a.values | b.values),
        (a ^ b, a.values ^ b.values),
        (a - b, a.values & ~b.values),
        (~a, ~a.values),
    ]:
        np.testing.assert_array_equal(made.values, expected)
    assert (a - a).count == 0
    assert ~~a == a
    assert a != b
    assert len({a, ~~a, b}) == 2


def test_masks_cannot_be_changed_and_keep_their_own_copy():
    values = np.zeros(GEOMETRY.n_neurons, bool)
    mask = NeuronMask(values, GEOMETRY)
    values[3] = True
    assert mask.count == 0
    with pytest.raises(ValueError, match="read-only"):
        mask.values[0] = True


def test_counts_units_and_names_tell_the_same_set():
    mask = NeuronMask.from_names([(2, 3), (6, 0), (6, 63)], GEOMETRY)
    assert mask.count == 3
    assert mask.counts_per_layer.tolist() == [1, 0, 2]
    assert [u.tolist() for u in mask.units] == [[3], [], [0, 63]]
    assert NeuronMask.from_names(mask.names, GEOMETRY) == mask
    assert (6, 63) in mask
    assert (6, 62) not in mask
    assert mask.share == pytest.approx(3 / 149)


def test_summary_shows_counts_and_overlap():
    a = NeuronMask.from_names([(2, 3), (6, 0)], GEOMETRY, name="a")
    b = NeuronMask.from_names([(2, 3), (5, 0)], GEOMETRY, name="b")
    frame = a.summary(b)
    assert frame.layer.tolist() == [2, 5, 6]
    assert frame.n_neurons.tolist() == [1, 0, 1]
    assert frame.shared_with_b.tolist() == [1, 0, 0]


def test_from_map_one_and_two_sided():
    z = np.zeros(GEOMETRY.n_neurons)
    z[[0, 1, 2]] = [4.0, -5.0, 3.0]
    assert NeuronMask.from_map(z, GEOMETRY).indices.tolist() == [0, 1]
    assert NeuronMask.from_map(z, GEOMETRY, two_sided=False).indices.tolist() == [0]
    assert NeuronMask.top(z, 2, GEOMETRY).indices.tolist() == [0, 1]
    assert NeuronMask.top(z, 2, GEOMETRY, two_sided=False).indices.tolist() == [0, 2]


def test_masks_from_maps_take_a_shared_threshold_or_one_each():
    maps = np.random.default_rng(0).standard_normal((3, GEOMETRY.n_neurons))
    shared = masks_from_maps(maps, GEOMETRY, 2.0)
    each = masks_from_maps(maps, GEOMETRY, [1.0, 2.0, 3.0])
    assert shared[1] == each[1]
    assert each[0].count > shared[0].count
    assert [m.name for m in shared] == ["network-01", "network-02", "network-03"]


def test_from_heads_takes_all_dimensions_of_a_head():
    geometry = NeuronGeometry.from_sizes([32, 32], site="attention", n_heads=[4, 4])
    assert NeuronMask.from_heads([(1, 2)], geometry).indices.tolist() == list(range(32 + 16, 32 + 24))
    with pytest.raises(MaskError, match="heads 0 to 3"):
        NeuronMask.from_heads([(0, 4)], geometry)
    with pytest.raises(MaskError, match="no heads"):
        NeuronMask.from_heads([(2, 0)], GEOMETRY)


def test_heads_are_told_and_matched_as_wholes():
    geometry = NeuronGeometry.from_sizes([32, 32], site="attention", layers=[4, 7], n_heads=[4, 4])
    mask = NeuronMask.from_heads([(4, 2), (7, 0), (7, 3)], geometry)
    assert mask.heads == [(4, 2), (7, 0), (7, 3)]
    assert NeuronMask.from_names([(4, 1)], geometry).heads is None
    assert some_mask().heads is None
    importance = np.random.default_rng(0).random(64)
    for by in (None, "layer", ("layer", "importance")):
        control = mask.matched_control(by=by, importance=importance, random_state=0)
        assert len(control.heads) == 3
        assert (control & mask).count == 0
    assert sorted(layer for layer, _ in control.heads) == [4, 7, 7]
    single = NeuronMask.from_names([(4, 1), (7, 3)], geometry).matched_control(random_state=0)
    assert single.count == 2


def test_a_set_is_rounded_to_the_heads_that_hold_enough_of_it():
    geometry = NeuronGeometry.from_sizes([32, 32], site="attention", n_heads=[4, 4])
    mask = NeuronMask.from_names([(0, u) for u in (0, 1, 2, 3, 8)] + [(1, u) for u in range(24, 32)], geometry, "a")
    assert mask.to_heads().heads == [(0, 0), (1, 3)]
    assert mask.to_heads(0.1).heads == [(0, 0), (0, 1), (1, 3)]
    assert mask.to_heads(1.0).heads == [(1, 3)]
    assert mask.to_heads().name == "heads of a"
    with pytest.raises(MaskError, match="no heads"):
        some_mask().to_heads()
    with pytest.raises(ParameterError, match="share"):
        mask.to_heads(0)


def test_a_mask_drawn_by_hand_names_its_model_when_it_is_saved(tmp_path):
    path = some_mask(name="a").save(tmp_path / "a.nii.gz", model={"id": "m", "weights_hash": "w"})
    assert NeuronMask.load(path).info["model"] == {"id": "m", "weights_hash": "w"}
    with pytest.raises(ParameterError, match="describe_model"):
        some_mask().save(tmp_path / "b.nii.gz", model="m")


def test_from_layers_takes_whole_layers():
    assert NeuronMask.from_layers([5], GEOMETRY).counts_per_layer.tolist() == [0, 37, 0]
    with pytest.raises(MaskError, match="Layers \\[4\\]"):
        NeuronMask.from_layers([4, 5], GEOMETRY)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_save_and_load_give_the_same_mask(tmp_path, suffix):
    mask = some_mask(name="a", info={"threshold": 3.0, "model": {"id": "m"}})
    path = mask.save(tmp_path / f"mask{suffix}")
    assert nib.load(path).get_data_dtype() == np.uint8
    loaded = NeuronMask.load(path)
    assert loaded == mask
    assert (loaded.name, loaded.info) == (mask.name, mask.info)
    with pytest.raises(GeometryMismatchError):
        NeuronMask.load(path, NeuronGeometry.from_sizes([10]))


def test_an_image_of_another_tool_becomes_a_mask(tmp_path):
    mask = some_mask()
    drawn = np.zeros(GEOMETRY.shape, np.float64)
    drawn[GEOMETRY.is_neuron] = 7.0 * mask.values
    img = nib.Nifti1Image(drawn, np.eye(4))
    assert NeuronMask.from_img(img, GEOMETRY) == mask
    path = tmp_path / "drawn.nii.gz"
    nib.save(img, path)
    assert NeuronMask.load(path, GEOMETRY) == mask
    with pytest.raises(MaskError, match="no sidecar"):
        NeuronMask.load(path)


def test_images_that_are_no_masks_are_refused():
    with pytest.raises(MaskError, match="padding"):
        NeuronMask.from_img(nib.Nifti1Image(np.ones(GEOMETRY.shape, np.uint8), np.eye(4)), GEOMETRY)
    with pytest.raises(GeometryMismatchError, match="affine"):
        NeuronMask.from_img(nib.Nifti1Image(np.zeros(GEOMETRY.shape, np.uint8), np.diag([-1, 1, 1, 1])), GEOMETRY)
    with pytest.raises(MaskError, match="3D"):
        NeuronMask.from_img(nib.Nifti1Image(np.zeros((*GEOMETRY.shape, 2), np.uint8), np.eye(4)), GEOMETRY)


def test_bad_values_are_refused():
    with pytest.raises(GeometryMismatchError, match="149"):
        NeuronMask(np.zeros(3, bool), GEOMETRY)
    with pytest.raises(MaskError, match="from_map"):
        NeuronMask(np.linspace(0, 1, 149), GEOMETRY)
    with pytest.raises(MaskError, match="1 NaN"):
        NeuronMask.from_map(np.r_[np.nan, np.zeros(148)], GEOMETRY)
    with pytest.raises(GeometryMismatchError):
        some_mask() & some_mask(geometry=NeuronGeometry.from_sizes([10, 10]))


def test_combined_masks_remember_both_texts():
    a, b = some_mask(0, info={"corpus_hash": "x", "threshold": 3.0}), some_mask(1, info={"corpus_hash": "y"})
    assert (a | b).info == {"corpus_hash": ["x", "y"], "threshold": 3.0}
    assert (a | a).info == a.info


# ------------------------------------------------------------------------------------------------ controls
layer_of_all = GEOMETRY.layer_of


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
    anti = controls.anti_network(network, layer_of_all, scores, 0, pool=0.2)
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

"""Sets of neurons: algebra, files, and the control sets drawn for them."""

import os

import nibabel as nib
import numpy as np
import pytest
from killing import end_at_step
from tiny import tiny_model

from llmbrain.exceptions import GeometryMismatchError, MaskError, ParameterError
from llmbrain.geometry import NeuronGeometry
from llmbrain.masks import NeuronMask

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


def test_only_earlier_masks_are_replaced(tmp_path):
    path, mask = tmp_path / "brain.nii.gz", some_mask()
    path.write_bytes(b"of another tool")
    with pytest.raises(ParameterError, match=r"brain.nii.gz or brain.json exists and is not an earlier"):
        mask.save(path)
    path.unlink()
    (tmp_path / "brain.json").write_text('{"format": "a sidecar of another tool"}')
    with pytest.raises(ParameterError, match="not replaced"):
        mask.save(path)
    (tmp_path / "brain.json").unlink()
    mask.save(path)
    other = some_mask(name="other")
    assert NeuronMask.load(other.save(path)).name == "other"
    with pytest.raises(ParameterError, match=r"brain.json belongs to .*brain.nii.gz"):  # one sidecar for two images
        mask.save(tmp_path / "brain.nii")
    assert NeuronMask.load(path).name == "other"


def test_masks_of_a_study_are_not_replaced(tmp_path):
    """They are parts of a result, which would no longer fit."""
    own, mask = tmp_path / "sub-x" / "func" / "sub-x_task-y_desc-z_mask.nii.gz", some_mask()
    mask.save(own)
    (tmp_path / "sub-x" / "study.json").write_text("{}")
    before = own.read_bytes()
    with pytest.raises(ParameterError, match="belongs to a study"):
        some_mask(1).save(own)
    assert own.read_bytes() == before
    for seed in (0, 1):  # a name of the user's own
        some_mask(seed).save(own.with_name("mine.nii.gz"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a copy of this process")
def test_a_kill_at_any_step_leaves_the_old_mask_or_the_new_one(tmp_path):
    """Both have the same size, so that the image alone does not tell which description is its own."""
    old, new, seen = some_mask(name="old"), some_mask().matched_control(random_state=0), []
    for n in range(20):
        path = old.save(tmp_path / str(n) / "my mask.nii.gz")
        child = os.fork()
        if not child:
            end_at_step(n)
            new.save(path)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        found = NeuronMask.load(path)
        assert (found == old and found.name == old.name) or (found == new and found.name == new.name)
        seen.append(found == new)
        new.save(path)
        assert NeuronMask.load(path) == new and not [p for p in path.parent.iterdir() if ".part." in p.name]
        if code == 0:
            break
    assert code == 0 and seen == sorted(seen) and not seen[0] and seen[-1]


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


# -- several sites -----------------------------------------------------------------------------------------------------
def test_masks_of_two_sites_unite_and_come_apart():
    heads = NeuronGeometry((8, 8, 8), "attention", (2, 5, 6), (2, 2, 2))
    a = NeuronMask.from_names([(2, 3), (6, 0)], GEOMETRY, name="a")
    b = NeuronMask.from_heads([(5, 1)], heads, name="b")
    both = a | b
    assert both == b | a and both.geometry.site == "attention+mlp" and both.count == 2 + 4
    assert both.names[:2] == [("attention", 5, 4), ("attention", 5, 5)] and ("mlp", 6, 0) in both
    assert NeuronMask.from_names(both.names, both.geometry) == both
    assert a.over(both.geometry).own_sites() == a and b.over(both.geometry).own_sites() == b
    assert both.geometry.of_site("mlp") == GEOMETRY and both.geometry.of_site("attention") == heads
    assert NeuronGeometry.from_dict(both.geometry.to_dict()) == both.geometry
    with pytest.raises(ParameterError, match="Name one of them"):
        both.geometry.index(2, 3)
    with pytest.raises(GeometryMismatchError, match="site 'mlp'"):
        both | NeuronMask.from_names([(0, 1)], NeuronGeometry((4, 4)))


def test_a_mask_of_two_sites_survives_its_file(tmp_path):
    heads = NeuronGeometry((8, 8, 8), "attention", (2, 5, 6), (2, 2, 2))
    both = some_mask(name="a") | NeuronMask.from_heads([(5, 1)], heads, name="b")
    assert NeuronMask.load(both.save(tmp_path / "both.nii.gz")) == both


def test_a_mask_takes_a_model_for_its_geometry():
    model = tiny_model("llama")
    geometry = NeuronGeometry.from_model(model)
    assert NeuronMask.from_names([(1, 2)], model) == NeuronMask.from_names([(1, 2)], geometry)
    assert NeuronMask.from_names([(1, 2)], model, site="attention").geometry.site == "attention"
    assert NeuronMask.from_heads([(1, 2)], model).heads == [(1, 2)]
    assert NeuronMask.from_layers([3], model) == NeuronMask.from_layers([3], geometry)
    assert NeuronMask.top(np.arange(geometry.n_neurons), 3, model).count == 3


@pytest.mark.parametrize(
    ("names", "geometry", "message"),
    [
        ([(1, 2)], None, "NeuronGeometry or a loaded model; got NoneType"),
        ([5], GEOMETRY, r"named \(layer, unit\)"),
        ([(1.5, 2)], GEOMETRY, r"named \(layer, unit\)"),
        ([("attention", 2, 3)], GEOMETRY, "is of another site"),
        ([(3, 0)], GEOMETRY, "Layer 3 is not among"),
    ],
)
def test_wrong_names_of_neurons_are_one_sentence(names, geometry, message):
    with pytest.raises((MaskError, ParameterError), match=message):
        NeuronMask.from_names(names, geometry)

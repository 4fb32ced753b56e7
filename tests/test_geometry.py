"""The bijection of neurons and voxels: nothing is lost, and nilearn reads it in our order."""

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reoriented import AXES, misplaced

from llmbrain.exceptions import GeometryMismatchError, ParameterError
from llmbrain.geometry import NeuronGeometry
from llmbrain.images import NIFTI1_MAX

SIZES = st.lists(st.one_of(st.integers(1, 60), st.sampled_from([97, 101, 64])), min_size=1, max_size=6)


@given(sizes=SIZES, n_tokens=st.integers(1, 4), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_array_to_image_to_array_loses_nothing(sizes, n_tokens, seed):
    geometry = NeuronGeometry.from_sizes(sizes)
    array = np.random.default_rng(seed).standard_normal((n_tokens, geometry.n_neurons)).astype(np.float32)
    img = geometry.to_img(array)
    assert img.shape == (*geometry.shape, n_tokens)
    assert img.get_data_dtype() == np.float32
    assert np.array_equal(img.affine, np.eye(4))
    assert np.array_equal(geometry.to_array(img), array)
    assert np.array_equal(geometry.to_array(geometry.to_img(array[0])), array[0])


@given(sizes=SIZES, seed=st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_nilearn_reads_neurons_in_flat_order(sizes, seed):
    geometry = NeuronGeometry.from_sizes(sizes)
    array = np.random.default_rng(seed).standard_normal((3, geometry.n_neurons)).astype(np.float32)
    read = geometry.masker().fit().transform(geometry.to_img(array))
    assert np.array_equal(read, array)


@given(sizes=SIZES, seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_disk_order_is_the_order_of_the_file(sizes, seed, tmp_path_factory):
    geometry = NeuronGeometry.from_sizes(sizes)
    array = np.random.default_rng(seed).standard_normal((2, geometry.n_neurons)).astype(np.float32)
    block = geometry.to_disk(array)
    assert np.array_equal(geometry.from_disk(block), array)
    path = tmp_path_factory.mktemp("disk") / "x.nii"
    nib.save(geometry.to_img(array), path)
    raw = np.fromfile(path, np.float32, offset=352).reshape(2, geometry.n_voxels)
    assert np.array_equal(raw, block)


def test_layers_and_heads_are_atlases():
    geometry = NeuronGeometry.from_sizes([6, 4], site="attention", layers=[3, 7], n_heads=[3, 2])
    assert geometry.to_array(geometry.layers_img).tolist() == [1] * 6 + [2] * 4
    assert geometry.to_array(geometry.heads_img).tolist() == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert geometry.to_array(geometry.mask_img).tolist() == [1] * 10
    assert int(np.asanyarray(geometry.mask_img.dataobj).sum()) == 10
    assert NeuronGeometry.from_sizes([4]).heads_img is None


def test_indices():
    geometry = NeuronGeometry.from_sizes([5, 3, 4], layers=[2, 5, 9])
    assert geometry.index(5, 2) == 7
    assert geometry.layer_of[7] == 1 and geometry.unit_of[7] == 2
    assert [part.tolist() for part in geometry.split(np.arange(12))] == [
        [0, 1, 2, 3, 4],
        [5, 6, 7],
        [8, 9, 10, 11],
    ]
    with pytest.raises(ParameterError, match="Layer 1 is not among"):
        geometry.index(1, 0)
    with pytest.raises(ParameterError, match="units 0 to 2"):
        geometry.index(5, 3)


def test_description_round_trip_and_equality():
    geometry = NeuronGeometry.from_sizes([6, 4], site="attention", n_heads=[3, 2])
    again = NeuronGeometry.from_dict(geometry.to_dict())
    assert again == geometry
    assert hash(again) == hash(geometry)
    assert again.fingerprint == geometry.fingerprint
    assert NeuronGeometry.from_sizes([6, 4]) != geometry
    with pytest.raises(GeometryMismatchError, match="does not describe"):
        NeuronGeometry.from_dict({"sizes": [3]})
    with pytest.raises(GeometryMismatchError, match="does not describe"):
        NeuronGeometry.from_dict({"sizes": [3], "site": "mlp", "layers": "x"})


def test_another_models_arrays_and_images_are_refused():
    geometry, other = NeuronGeometry.from_sizes([6, 4]), NeuronGeometry.from_sizes([30, 30])
    with pytest.raises(GeometryMismatchError, match="Expected 10 neurons"):
        geometry.to_img(np.zeros(9))
    with pytest.raises(GeometryMismatchError, match="the shape"):
        geometry.to_array(other.to_img(np.zeros(60)))
    with pytest.raises(GeometryMismatchError, match="different models"):
        geometry.check_same(other, "The mask")
    with pytest.raises(GeometryMismatchError, match="voxels per token"):
        geometry.from_disk(np.zeros((1, 3)))


@pytest.mark.parametrize("axes", [*AXES, "shifted"])
@pytest.mark.parametrize("n_tokens", [None, 3])
def test_images_whose_voxels_are_not_where_they_were_written_are_refused(axes, n_tokens, tmp_path):
    geometry = NeuronGeometry.from_sizes([27] * 3)  # 3 x 9 x 3: a flip and a swap of axes 0 and 2 keep the shape
    array = np.random.default_rng(0).standard_normal((n_tokens or 1, 27 * 3)).astype(np.float32)
    img = misplaced(geometry.to_img(array if n_tokens else array[0]))[axes]
    nib.save(img, tmp_path / "turned.nii.gz")
    for source in (img, tmp_path / "turned.nii.gz"):
        with pytest.raises(GeometryMismatchError, match="affine|the shape"):
            geometry.to_array(source)


def test_limits_of_nifti_are_errors():
    with pytest.raises(ParameterError, match=str(NIFTI1_MAX)):
        NeuronGeometry.from_sizes([1] * (NIFTI1_MAX + 1))
    with pytest.raises(ParameterError, match="use several runs"):
        NeuronGeometry.from_sizes([1]).to_img(np.zeros((NIFTI1_MAX + 1, 1), np.float32))


@pytest.mark.parametrize("sizes", [[], [0], [3, -1]])
def test_empty_layers_are_refused(sizes):
    with pytest.raises(ParameterError, match="at least one"):
        NeuronGeometry.from_sizes(sizes)

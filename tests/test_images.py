"""Sheets of neurons, and images that cannot be read."""

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbrain.exceptions import DatasetError
from llmbrain.geometry import NeuronGeometry
from llmbrain.images import fold


@given(width=st.integers(1, 40000))
def test_fold_holds_every_neuron_and_is_near_square(width):
    rows, cols = fold(width)
    assert rows >= cols
    assert width <= rows * cols < width + rows
    assert rows <= 3 * cols or width <= 3


@pytest.mark.parametrize(
    ("width", "sheet"), [(1536, (48, 32)), (11008, (128, 86)), (3072, (64, 48)), (14336, (128, 112)), (97, (10, 10))]
)
def test_known_folds(width, sheet):
    assert fold(width) == sheet


@pytest.mark.parametrize("content", [b"", b"not an image" * 40])
def test_damaged_images_are_named(content, tmp_path):
    path = tmp_path / "components.nii.gz"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match="components.nii.gz is damaged"):
        NeuronGeometry.from_sizes([4]).to_array(path)
    nib.save(NeuronGeometry.from_sizes([4]).to_img(np.arange(4.0)), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DatasetError, match="components.nii.gz is damaged"):
        NeuronGeometry.from_sizes([4]).to_array(path)

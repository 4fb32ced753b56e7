"""Neurons selected by maps, names, heads and layers."""

import numpy as np
import pytest

from llmbrain.exceptions import MaskError
from llmbrain.geometry import NeuronGeometry
from llmbrain.masks import NeuronMask

GEOMETRY = NeuronGeometry.from_sizes([48, 37, 64], layers=[2, 5, 6])


def test_from_map_one_and_two_sided():
    z = np.zeros(GEOMETRY.n_neurons)
    z[[0, 1, 2]] = [4.0, -5.0, 3.0]
    assert NeuronMask.from_map(z, GEOMETRY).indices.tolist() == [0, 1]
    assert NeuronMask.from_map(z, GEOMETRY, two_sided=False).indices.tolist() == [0]
    assert NeuronMask.top(z, 2, GEOMETRY).indices.tolist() == [0, 1]
    assert NeuronMask.top(z, 2, GEOMETRY, two_sided=False).indices.tolist() == [0, 2]


def test_from_heads_takes_all_dimensions_of_a_head():
    geometry = NeuronGeometry.from_sizes([32, 32], site="attention", n_heads=[4, 4])
    assert NeuronMask.from_heads([(1, 2)], geometry).indices.tolist() == list(range(32 + 16, 32 + 24))
    with pytest.raises(MaskError, match="heads 0 to 3"):
        NeuronMask.from_heads([(0, 4)], geometry)
    with pytest.raises(MaskError, match="no heads"):
        NeuronMask.from_heads([(2, 0)], GEOMETRY)

"""Masks of several maps."""

import numpy as np
import pytest

from llmbrain.exceptions import ParameterError
from llmbrain.geometry import NeuronGeometry
from llmbrain.masks import NeuronMask, masks_from_maps

GEOMETRY = NeuronGeometry.from_sizes([48, 37, 64], layers=[2, 5, 6])


def test_masks_from_maps_take_a_shared_threshold_or_one_each():
    maps = np.random.default_rng(0).standard_normal((3, GEOMETRY.n_neurons))
    shared = masks_from_maps(maps, GEOMETRY, 2.0)
    each = masks_from_maps(maps, GEOMETRY, [1.0, 2.0, 3.0])
    assert shared[1] == each[1]
    assert each[0].count > shared[0].count
    assert [m.name for m in shared] == ["network-01", "network-02", "network-03"]


@pytest.mark.parametrize("threshold", [np.nan, np.inf, -np.inf, -1, "3", True, [1.0, np.nan, 2.0], [1.0, 2.0]])
def test_thresholds_that_mean_nothing_are_refused(threshold):
    """NaN and infinity would give empty masks, and a negative number all neurons."""
    maps = np.random.default_rng(0).standard_normal((3, GEOMETRY.n_neurons))
    with pytest.raises(ParameterError, match="threshold"):
        masks_from_maps(maps, GEOMETRY, threshold)
    assert NeuronMask.from_map(maps[0], GEOMETRY, -1.0, two_sided=False).count == (maps[0] > -1).sum()

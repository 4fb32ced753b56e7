"""Order of maps."""

import numpy as np
import torch

from llmbrain.networks.engines.maps import reorder


def test_rows_are_reordered_in_place():
    rng = np.random.default_rng(0)
    for n in (1, 2, 7, 20):
        rows, order = torch.from_numpy(rng.standard_normal((n, 5))), torch.from_numpy(rng.permutation(n))
        expected = rows[order]
        reorder(rows, order)
        assert torch.equal(rows, expected)

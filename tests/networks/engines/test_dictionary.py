"""Sparse dictionaries reach the minimum of their objective."""

import numpy as np
import pytest
import torch

from llmbrain.networks.engines.dictionary import sparse_dictionary


def test_dictionary_lowers_its_objective_and_leaves_no_gradient():
    rng = np.random.default_rng(0)
    codes = torch.from_numpy((rng.laplace(size=(5, 3000)) * (rng.random((5, 3000)) < 0.05)).astype(np.float32))
    x = torch.from_numpy(rng.standard_normal((20, 5)).astype(np.float32)) @ codes
    x += 0.1 * torch.from_numpy(rng.standard_normal((20, 3000)).astype(np.float32))
    noise = 0.1 * torch.randn(codes.shape, generator=torch.Generator().manual_seed(0))
    found = sparse_dictionary(x, codes + noise, 0.3, tol=1e-6)
    assert found.converged and (np.diff(found.objective) <= 1e-6 * found.objective[0]).all()
    rest = x.double() - found.atoms @ found.codes.double()
    assert found.objective[-1] == pytest.approx(
        0.5 * float(rest.square().sum()) + 0.3 * float(found.codes.abs().sum()), rel=1e-4
    )
    pull = found.atoms.T @ rest  # zero codes stay zero, the others balance the penalty
    assert float(pull.abs()[found.codes == 0].max()) < 0.3 * 1.02
    assert float((pull - 0.3 * found.codes.sign())[found.codes != 0].abs().max()) < 0.02

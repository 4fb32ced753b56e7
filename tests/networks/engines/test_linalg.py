"""Eigenpairs and orthogonal factors, against direct decompositions."""

import numpy as np
import pytest
import torch

from llmbrain.networks.engines import linalg


def test_krylov_finds_what_eigh_finds():
    rng = np.random.default_rng(0)
    root = rng.standard_normal((300, 900)) * np.r_[np.linspace(6, 2, 12), np.ones(288)][:, None]
    matrix = torch.from_numpy(root @ root.T)
    values, vectors, residual = linalg.krylov_eigenpairs(lambda q: matrix @ q, 300, 12, tol=1e-8)
    exact, basis = linalg.leading_eigenpairs(matrix, 12)
    np.testing.assert_allclose(values, exact, rtol=1e-9)
    assert torch.linalg.matrix_norm(vectors.T @ basis, 2) == pytest.approx(1, abs=1e-9)
    assert residual < 1e-8


@pytest.mark.parametrize(("smallest", "is_single"), [(0.1, True), (1e-5, False)])
def test_single_precision_is_used_where_it_suffices(smallest, is_single):
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((200, 200)))[0]
    matrix = torch.from_numpy((basis * np.r_[np.geomspace(1, smallest, 20), np.zeros(180)]) @ basis.T)
    exact, expected = linalg.leading_eigenpairs(matrix, 20)
    values, vectors = linalg.leading_eigenpairs(matrix, 20, single=True)
    assert torch.equal(values, exact) != is_single and vectors.dtype == torch.float64
    np.testing.assert_allclose(values, exact, rtol=1e-5)
    assert torch.linalg.matrix_norm(vectors.T @ expected, "nuc") == pytest.approx(20, abs=1e-4)


def test_polar_factor_is_the_decorrelation():
    generator = torch.Generator().manual_seed(0)
    m = torch.randn(5, 40, 40, dtype=torch.float64, generator=generator)
    np.testing.assert_allclose(linalg.polar_factor(m), linalg.symmetric_decorrelation(m), atol=1e-9)


@pytest.mark.parametrize("condition", [1.0, 1e3, 1e6])
def test_polar_factor_of_bad_matrices(condition):
    generator = torch.Generator().manual_seed(0)
    u, v = torch.linalg.qr(torch.randn(2, 30, 30, dtype=torch.float64, generator=generator)).Q
    m = 1e-9 * (u * torch.logspace(0, -np.log10(condition), 30, dtype=torch.float64)) @ v
    np.testing.assert_allclose(linalg.polar_factor(m), u @ v, atol=1e-8)


def test_polar_factor_never_blows_up():
    w = linalg.polar_factor(torch.diag(torch.tensor([1.0, 1e-12, 0.0], dtype=torch.float64)))
    assert torch.isfinite(w).all() and w.abs().max() < 1.1

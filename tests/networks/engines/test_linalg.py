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


SPECTRA = {
    "noise": np.linspace(1.3, 0.8, 400) ** 2,
    "steep": np.r_[np.geomspace(1e6, 2, 6), np.linspace(1.3, 0.8, 394)],
    "of low rank": np.r_[np.linspace(5, 1, 9), np.zeros(391)],
    "flat": np.ones(400),
}


@pytest.mark.parametrize("values", SPECTRA.values(), ids=SPECTRA)
def test_polynomials_find_what_eigh_finds(values):
    basis = torch.linalg.qr(torch.from_numpy(np.random.default_rng(0).standard_normal((400, 400)))).Q
    matrix = (basis * torch.from_numpy(values)) @ basis.T
    found, vectors = linalg.filtered_eigenpairs((matrix + matrix.T) / 2, 12)
    np.testing.assert_allclose(found, values[:12], rtol=1e-6, atol=1e-9 * values[0])
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(12), atol=1e-12)
    assert torch.linalg.vector_norm(matrix @ vectors - vectors * found, dim=0).max() < 1e-3 * max(values[11], 1e-7)


def test_polynomials_of_nothing():
    assert not linalg.filtered_eigenpairs(torch.zeros(90, 90, dtype=torch.float64), 3)[0].any()


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

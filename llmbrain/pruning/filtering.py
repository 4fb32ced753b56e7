"""Covariances from few tokens: believed in a subspace and on the diagonal, elsewhere in part."""

import torch

__all__ = ["FilteredMoments", "filtered_covariance"]


def filtered_covariance(covariance, basis, scale=None, trust=0.0):
    """A covariance that is believed in a subspace and on the diagonal, and elsewhere in part.

    With channels scaled by ``scale`` and ``Q`` an orthonormal basis: ``Q Q^T C Q Q^T`` plus what the diagonal lacks,
    and ``trust`` times all that is missing then. ``trust`` between 0 and 1 is a shrinkage towards a factor model
    (Ledoit & Wolf 2003), the factors being whatever spans the subspace.

    Parameters
    ----------
    covariance : torch.Tensor, shape (size, size)
    basis : torch.Tensor, shape (size, rank)
        Orthonormal columns.
    scale : torch.Tensor, shape (size,), optional
    trust : float
        From 0 (the subspace and the diagonal alone) to 1 (the covariance as it is).

    Returns
    -------
    torch.Tensor, shape (size, size), float64
    """
    covariance = covariance.double()
    scale = torch.ones(len(covariance), dtype=torch.float64) if scale is None else scale.double()
    scale = scale.to(covariance.device).clamp_min(1e-12)
    basis = basis.to(covariance)
    outer = torch.outer(scale, scale)
    matrix = covariance * outer
    kept = basis @ (basis.T @ matrix @ basis) @ basis.T
    kept.diagonal().copy_(matrix.diagonal().clamp_min(0).maximum(kept.diagonal()))
    if trust:
        kept.lerp_(matrix, float(trust))
    return kept / outer


class FilteredMoments:
    """Moments whose covariance is kept in a subspace and on the diagonal alone: few tokens cannot fill a whole matrix.

    The covariance is :func:`filtered_covariance`; everything else is as in the moments that are wrapped.

    Parameters
    ----------
    moments : Moments
    basis : torch.Tensor, shape (size, rank)
        Orthonormal columns.
    scale : torch.Tensor, shape (size,), optional
    trust : float

    Examples
    --------
    >>> from llmbrain.stats.moments import Moments
    >>> m = Moments(2); m.update(torch.tensor([[0.0, 0.0], [1.0, 2.0], [2.0, 1.0]]))
    >>> FilteredMoments(m, torch.zeros(2, 0, dtype=torch.float64)).covariance.round(decimals=4).tolist()
    [[0.6667, 0.0], [0.0, 0.6667]]
    """

    def __init__(self, moments, basis, scale=None, trust=0.0):
        self._moments, self._basis, self._scale, self._trust = moments, basis, scale, trust

    def __getattr__(self, name):
        return getattr(self._moments, name)

    def __add__(self, other):
        inner = other._moments if isinstance(other, FilteredMoments) else other
        return FilteredMoments(self._moments + inner, self._basis, self._scale, self._trust)

    @property
    def covariance(self):
        """Filtered covariance, shape (size, size), float64."""
        return filtered_covariance(self._moments.covariance, self._basis, self._scale, self._trust)

    @property
    def gram(self):
        """Filtered second moments, shape (size, size), float64."""
        mean = self.mean
        return self.covariance + torch.outer(mean, mean)

"""Scores and allocations by the span of networks, and covariances shrunk towards it. None helps, see README.md.

Importing this module adds the scores ``participation`` and ``network_obs`` and the allocations ``participation`` and
``mass`` to the registries of llmbrain, as any module of a user can.
"""

import torch

from llmbrain.exceptions import ParameterError
from llmbrain.pruning import ALLOCATIONS, SCORES
from llmbrain.pruning.allocation import by_power, sensitivity_counts
from llmbrain.pruning.scores import obs_column


def network_basis(maps, scale=None, rank=None):
    """Orthonormal basis of the span of maps, with units scaled.

    Parameters
    ----------
    maps : torch.Tensor, shape (n_maps, n_units)
    scale : torch.Tensor, shape (n_units,), optional
    rank : int, optional
        Most leading directions to keep.

    Returns
    -------
    torch.Tensor, shape (n_units, n_directions), float64

    Examples
    --------
    >>> network_basis(torch.tensor([[1.0, 0.0, 0.0], [2.0, 0.0, 0.0]])).shape
    torch.Size([3, 1])
    """
    maps = torch.as_tensor(maps).double()
    if scale is not None:
        maps = maps.to(scale.device) * scale.double()
    basis, singular, _ = torch.linalg.svd(maps.T, full_matrices=False)
    return basis[:, singular > 1e-10 * singular.max().clamp_min(1e-300)][:, :rank]


@SCORES.register("participation", needs=("maps", "covariance", "weight"))
def network_participation(maps, covariance=None, weight=None):
    """Score units by how much of their output-weighted activity lies in the span of the networks.

    With channels scaled by ``|W_:j|``, the maps are orthonormalised (``Q``) and the score is the variance of each
    channel after projection on them, ``[Q Q^T C Q Q^T]_jj``; without a covariance it is the leverage ``[Q Q^T]_jj``.
    It depends only on the span, not on the rotation that ICA found.

    Parameters
    ----------
    maps : torch.Tensor, shape (n_maps, n_units)
    covariance : torch.Tensor, shape (n_units, n_units), optional
    weight : torch.Tensor, shape (n_outputs, n_units), optional

    Returns
    -------
    torch.Tensor, shape (n_units,), float64
    """
    maps = torch.as_tensor(maps).double()
    scale = torch.ones(maps.shape[1], dtype=torch.float64) if weight is None else weight.double().norm(dim=0)
    scale = scale.to(maps.device)
    basis = network_basis(maps, scale)
    if covariance is None:
        return basis.square().sum(1)
    matrix = covariance.to(basis) * scale[:, None] * scale[None, :]
    inner = basis.T @ matrix @ basis
    return ((basis @ inner) * basis).sum(1).clamp_min(0)


@SCORES.register("network_obs", needs=("maps", "covariance", "weight"))
def network_obs(maps, covariance, weight, ridge=1e-2):
    """Optimal-brain-surgeon saliency with covariances restricted to the span of the networks.

    The saliency of a column (Hassibi & Stork 1993; :func:`llmbrain.pruning.scores.obs_column`) with
    ``Q Q^T C Q Q^T`` instead of the covariance ``C``, whose diagonal is then restored; channels are scaled by
    ``|W_:j|`` and ``Q`` is an orthonormal basis of the maps. Only neurons of the same networks can then make up for a
    removed neuron.

    Parameters
    ----------
    maps : torch.Tensor, shape (n_maps, n_units)
    covariance : torch.Tensor, shape (n_units, n_units)
    weight : torch.Tensor, shape (n_outputs, n_units)
    ridge : float

    Returns
    -------
    torch.Tensor, shape (n_units,), float64
    """
    scale = weight.to(covariance).norm(dim=0).clamp_min(1e-12)
    return obs_column(weight, filtered_covariance(covariance, network_basis(maps, scale), scale), ridge)


def network_mass(maps):
    """Measure the share of networks of the whole model that lies in each layer: mean leverage of its units.

    The maps of all layers side by side are orthonormalised (``Q``). The leverages ``[Q Q^T]_jj`` of all units sum to
    the number of networks; the mass of a layer is their mean over its units. The networks must be found in all layers
    together; if every layer has its own networks, all masses are similar.

    Parameters
    ----------
    maps : list of torch.Tensor, shape (n_maps, n_units)
        One tensor per layer, with the same maps in each.

    Returns
    -------
    list of float

    Examples
    --------
    >>> [round(m, 6) for m in network_mass([torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0, 0.0]])])]
    [0.5, 0.0]
    """
    maps = [torch.as_tensor(m).double() for m in maps]
    if len({len(m) for m in maps}) > 1:
        raise ParameterError("Masses need the same networks in every layer. Find them with networks='joint'.")
    leverage = network_basis(torch.cat(maps, dim=1)).square().sum(1)
    return [float(part.mean()) for part in leverage.split([m.shape[1] for m in maps])]


@ALLOCATIONS.register("participation", needs=("scores", "stream_powers", "exponent"), score="participation")
def by_participation(scores, stream_powers, exponent, n_keep, *, floors=1, round_to=1):
    """Remove less where the span of the networks writes more to the residual stream."""
    exponent = 0.3 if exponent is None else exponent
    return by_power(scores, stream_powers, exponent, n_keep, floors=floors, round_to=round_to)


@ALLOCATIONS.register("mass", needs=("maps", "sizes", "exponent"))
def by_mass(maps, sizes, exponent, n_keep, *, floors=1, round_to=1):
    """Remove less where more of the networks of the whole model lies."""
    exponent = 0.3 if exponent is None else exponent
    return sensitivity_counts(network_mass(maps), sizes, n_keep, exponent=exponent, floors=floors, round_to=round_to)


def filtered_covariance(covariance, basis, scale=None, trust=0.0):
    """Shrink a covariance towards a subspace and the diagonal.

    With channels scaled by ``scale`` and ``Q`` an orthonormal basis: ``Q Q^T C Q Q^T`` with the diagonal restored, and
    ``trust`` times the difference from ``C``. ``trust`` between 0 and 1 shrinks towards a factor model (Ledoit & Wolf
    2003) whose factors span the subspace.

    Parameters
    ----------
    covariance : torch.Tensor, shape (size, size)
    basis : torch.Tensor, shape (size, rank)
        Orthonormal columns.
    scale : torch.Tensor, shape (size,), optional
    trust : float
        From 0 (only the subspace and the diagonal) to 1 (the covariance unchanged).

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
    """Moments with a covariance from :func:`filtered_covariance`, because few tokens do not determine a whole matrix.

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
    >>> m = Moments(2); m.add(torch.tensor([[0.0, 0.0], [1.0, 2.0], [2.0, 1.0]]))
    >>> FilteredMoments(m, torch.zeros(2, 0, dtype=torch.float64)).covariance.round(decimals=4).tolist()
    [[0.6667, 0.0], [0.0, 0.6667]]
    """

    def __init__(self, moments, basis, scale=None, trust=0.0):
        self._moments, self._basis, self._scale, self._trust = moments, basis, scale, trust

    def __getattr__(self, name):
        return getattr(self._moments, name)

    def merge(self, other):
        inner = other._moments if isinstance(other, FilteredMoments) else other
        return FilteredMoments(self._moments.merge(inner), self._basis, self._scale, self._trust)

    @property
    def covariance(self):
        """Filtered covariance, shape (size, size), float64."""
        return filtered_covariance(self._moments.covariance, self._basis, self._scale, self._trust)

    @property
    def gram(self):
        """Filtered second moments, shape (size, size), float64."""
        mean = self.mean
        return self.covariance + torch.outer(mean, mean)

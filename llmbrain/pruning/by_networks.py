"""Scores and allocations that read functional networks: plain functions on maps, weights and covariances.

Where the maps come from is the business of :mod:`llmbrain.pruning.published`. All but the union are this
package's own, and exploratory: whether any of them helps is asked by ``benchmarks/pruning_networks.py``.
"""

import torch

from ..exceptions import ParameterError
from .filtering import filtered_covariance
from .scores import obs_column

__all__ = ["network_basis", "network_mass", "network_obs", "network_participation", "network_times", "union_z"]


def union_z(maps):
    """Union of networks: the largest ``|z|`` of a unit over maps (and over the signals that stand for it).

    Parameters
    ----------
    maps : torch.Tensor, shape (n_maps, n_units)
        z-scored over units. Maps of several groups, or of several signals of the same units, are stacked.

    Returns
    -------
    torch.Tensor, shape (n_units,), float64
    """
    return torch.as_tensor(maps).double().abs().amax(0)


def network_basis(maps, scale=None, rank=None):
    """Orthonormal basis of the span of maps, with units scaled.

    Parameters
    ----------
    maps : torch.Tensor, shape (n_maps, n_units)
    scale : torch.Tensor, shape (n_units,), optional
    rank : int, optional
        Leading directions to take at most.

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


def network_participation(maps, covariance=None, weight=None):
    """How much of a unit's output-weighted activity lies in the span of the networks.

    With channels scaled by ``|W_:j|``, the maps are orthonormalised (``Q``) and the score is the variance of each
    channel after projection on them, ``[Q Q^T C Q Q^T]_jj``; without a covariance it is the leverage ``[Q Q^T]_jj``.
    It depends on the span alone, not on how ICA rotated it.

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


def network_obs(maps, covariance, weight, ridge=1e-2):
    """Optimal-brain-surgeon saliency where covariances are believed in the span of the networks alone.

    The saliency of a column (Hassibi & Stork 1993; :func:`llmbrain.pruning.scores.obs_column`) with
    ``Q Q^T C Q Q^T`` in the place of the covariance ``C``, plus what its diagonal lacks; channels are scaled by
    ``|W_:j|`` and ``Q`` is an orthonormal basis of the maps. A neuron is then replaced only by those that it shares
    networks with.

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
    """How much of networks that span the whole model lies in each layer: leverage, mean over its units.

    The maps of all layers side by side are orthonormalised (``Q``); the leverages ``[Q Q^T]_jj`` of all units sum to
    the number of networks, and a layer's mean says how much a unit of it takes part in them. Meant for networks that
    were found in all layers together; where every layer has networks of its own, all masses are alike.

    Parameters
    ----------
    maps : list of torch.Tensor, shape (n_maps, n_units)
        One a layer, the same maps in each.

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
        raise ParameterError("Masses need the same networks in every layer; find them with networks='joint'.")
    leverage = network_basis(torch.cat(maps, dim=1)).square().sum(1)
    return [float(part.mean()) for part in leverage.split([m.shape[1] for m in maps])]


def network_times(networks, score, power=1.0):
    """Networks and output together: ``max|z| ** power * score`` (exploratory).

    Examples
    --------
    >>> network_times(torch.tensor([2.0, 1.0]), torch.tensor([1.0, 3.0]), power=2.0).tolist()
    [4.0, 3.0]
    """
    return networks.double().to(score.device) ** power * score.double()

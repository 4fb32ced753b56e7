"""Scores that read functional networks: plain functions on maps."""

import torch

__all__ = ["network_times", "union_z"]


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


def network_times(networks, score, power=1.0):
    """Networks and output together: ``max|z| ** power * score`` (exploratory).

    Examples
    --------
    >>> network_times(torch.tensor([2.0, 1.0]), torch.tensor([1.0, 3.0]), power=2.0).tolist()
    [4.0, 3.0]
    """
    return networks.double().to(score.device) ** power * score.double()

"""How much a unit matters: one number a unit, the lowest are removed. Plain functions on weights and moments.

A unit is a neuron (one input of the linear that writes the MLP back) or a head (a block of inputs of ``o_proj``).
``weight`` is always that linear, shape ``(n_outputs, n_inputs)``.
"""

import torch

from ..exceptions import ParameterError
from .compensation import _solve

__all__ = [
    "SCORES",
    "block_sum",
    "flap",
    "greedy_obs",
    "magnitude",
    "obs_column",
    "random",
    "ridge_leverage",
    "wanda_sp",
]


def random(n_units, generator=None):
    """Uniform numbers: the floor every method has to beat, over several seeds.

    Parameters
    ----------
    n_units : int
    generator : torch.Generator, optional

    Returns
    -------
    torch.Tensor, shape (n_units,)
    """
    return torch.rand(n_units, generator=generator, dtype=torch.float64)


def magnitude(weight):
    """Norm of the weights that leave each neuron, ``|W_:j|``.

    Examples
    --------
    >>> magnitude(torch.tensor([[3.0, 0.0], [4.0, 1.0]])).tolist()
    [5.0, 1.0]
    """
    return weight.double().norm(dim=0)


def wanda_sp(weight, second_moment):
    """Wanda for structures: mean absolute weight times the root mean square of the input.

    ``(1/d) sum_i |W_ij| sqrt(E x_j^2)``; Sun et al. 2024, in the structured form of An et al. 2024 (FLAP).

    Parameters
    ----------
    weight : torch.Tensor, shape (n_outputs, n_inputs)
    second_moment : torch.Tensor, shape (n_inputs,)

    Returns
    -------
    torch.Tensor, shape (n_inputs,), float64
    """
    return weight.double().abs().mean(0) * second_moment.double().to(weight.device).sqrt()


def flap(weight, variance):
    """FLAP's weighted input fluctuation (WIFV): ``var(x_j) |W_:j|^2``; An et al. 2024, eq. 5."""
    return variance.double().to(weight.device) * weight.double().square().sum(0)


def _damped_inverse(matrix, ridge):
    matrix = matrix.double()
    return _solve(matrix, torch.eye(len(matrix), dtype=torch.float64, device=matrix.device), ridge)


def obs_column(weight, gram, ridge=1e-2):
    """Optimal-brain-surgeon saliency of a column: ``|W_:j|^2 / (2 [(H + l I)^-1]_jj)``.

    The error of removing one column when all others are refitted; Hassibi and Stork 1993, SlimGPT 2024.

    Parameters
    ----------
    weight : torch.Tensor, shape (n_outputs, n_inputs)
    gram : torch.Tensor, shape (n_inputs, n_inputs)
        Second moments (or covariance, if a bias may absorb the mean).
    ridge : float
        ``l`` as a share of the mean diagonal.

    Returns
    -------
    torch.Tensor, shape (n_inputs,), float64
    """
    inverse = _damped_inverse(gram, ridge)
    power = weight.to(inverse).square().sum(0)
    return _blank_dead(power / (2 * inverse.diagonal().clamp_min(1e-300)), gram)


def _blank_dead(score, gram):
    """A unit that never speaks is worth nothing (its inverse diagonal is an artefact)."""
    diagonal = gram.diagonal()
    return torch.where(diagonal > 1e-14 * diagonal.mean(), score, torch.zeros_like(score))


def greedy_obs(weight, gram, ridge=1e-2, min_kept=1):
    """Order of removal when the worst column goes first and the others are refitted after each removal.

    The inverse is downdated exactly, ``G <- G - G_:j G_j: / G_jj``, and so are the refitted weights,
    ``W <- W - W_:j G_j: / G_jj``. Backward elimination as in OSSCAR (without its swaps).

    Parameters
    ----------
    weight, gram, ridge
        As for :func:`obs_column`.
    min_kept : int
        The last ``min_kept`` columns keep the score of the last step.

    Returns
    -------
    torch.Tensor, shape (n_inputs,), float64
        Cumulative error at the step at which each column is removed; it grows with the order of removal, and the
        increments are the added squared errors per token.

    Examples
    --------
    Two equal inputs: one of them is free; the other then speaks for both.

    >>> gram = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    >>> [round(v, 3) for v in greedy_obs(torch.eye(3), gram, ridge=1e-6).tolist()]
    [0.0, 3.0, 1.0]
    """
    inverse = _damped_inverse(gram, ridge).clone()
    weight = weight.to(inverse).clone()
    n = len(inverse)
    score = torch.zeros(n, dtype=torch.float64, device=inverse.device)
    alive = torch.ones(n, dtype=torch.bool, device=inverse.device)
    power = weight.square().sum(0)
    total = torch.zeros((), dtype=torch.float64, device=inverse.device)
    for _ in range(n - max(1, min_kept)):
        diagonal = inverse.diagonal().clamp_min(1e-300)
        saliency = torch.where(alive, power / diagonal, torch.inf)
        j = int(saliency.argmin())
        total = total + saliency[j]
        score[j] = total
        row = inverse[j] / diagonal[j]
        column = weight[:, j].clone()
        weight -= torch.outer(column, row)
        power = power - 2 * row * (column @ (weight + torch.outer(column, row))) + row.square() * column.square().sum()
        inverse -= torch.outer(inverse[:, j].clone(), row)
        alive[j] = False
        power.clamp_min_(0)
    rest = torch.where(alive, power / inverse.diagonal().clamp_min(1e-300), torch.zeros_like(power))
    score[alive] = total + rest[alive]
    return score


def ridge_leverage(covariance, ridge=1e-2, weight=None):
    """Leverage of a unit in what the units do together: ``1 - l [(C + l I)^-1]_jj``.

    Parameters
    ----------
    covariance : torch.Tensor, shape (n_inputs, n_inputs)
    ridge : float
        ``l`` as a share of the mean diagonal.
    weight : torch.Tensor, shape (n_outputs, n_inputs), optional
        If given, each channel is first scaled by the norm of its outgoing weights.

    Returns
    -------
    torch.Tensor, shape (n_inputs,), float64
        In [0, 1].
    """
    matrix = covariance.double()
    if weight is not None:
        scale = weight.to(matrix).norm(dim=0)
        matrix = matrix * scale[:, None] * scale[None, :]
    penalty = max(ridge, 1e-12) * float(matrix.diagonal().mean())
    return _blank_dead((1 - penalty * _damped_inverse(matrix, ridge).diagonal()).clamp(0, 1), matrix)


def block_sum(values, size, how="sum"):
    """Score of heads from the scores of their channels.

    Parameters
    ----------
    values : torch.Tensor, shape (n_heads * size,)
    size : int
        Channels of a head.
    how : {"sum", "mean"}

    Examples
    --------
    >>> block_sum(torch.tensor([1.0, 2.0, 3.0, 4.0]), 2).tolist()
    [3.0, 7.0]
    """
    if values.shape[-1] % size:
        raise ParameterError(f"{values.shape[-1]} channels do not divide into heads of {size}.")
    blocks = values.reshape(*values.shape[:-1], -1, size)
    return blocks.sum(-1) if how == "sum" else blocks.mean(-1)


def obs_blocks(weight, gram, size, ridge=1e-2):
    """Optimal-brain-surgeon saliency of whole heads: ``1/2 tr(W_B [(H + l I)^-1]_BB^-1 W_B^T)``.

    Parameters
    ----------
    weight : torch.Tensor, shape (n_outputs, n_heads * size)
    gram : torch.Tensor, shape (n_heads * size, n_heads * size)
    size : int

    Returns
    -------
    torch.Tensor, shape (n_heads,), float64
    """
    inverse = _damped_inverse(gram, ridge)
    weight = weight.to(inverse)
    values = []
    for start in range(0, len(inverse), size):
        part = slice(start, start + size)
        block = _solve(inverse[part, part], weight[:, part], 0.0)
        values.append(0.5 * (block * weight[:, part]).sum())
    return torch.stack(values)


# What each score needs: "diagonal" moments, the "full" Gram, "nothing", or "networks".
SCORES = {
    "random": "nothing",
    "magnitude": "nothing",
    "wanda": "diagonal",
    "flap": "diagonal",
    "obs": "full",
    "greedy_obs": "full",
    "leverage": "full",
    "network": "networks",
    "network_flap": "networks",
}

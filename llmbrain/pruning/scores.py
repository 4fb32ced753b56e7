"""Scores: one number per unit; the lowest are removed. Plain functions on weights, moments and maps of networks.

A unit is a neuron (one input of the linear that writes the output of the MLP) or a head (a block of inputs of
``o_proj``). ``weight`` is always the weight of that linear, shape ``(n_outputs, n_inputs)``.

A registered score declares the arguments that it ``needs``, in order; :class:`LayerInputs` lists their names.
"""

import math

import numpy as np
import torch

from ..arguments import checked, count, tensor
from ..exceptions import ParameterError, is_number
from ..models.linears import weight_of
from ..registry import Registry, choose
from .equations import solve_damped

# needs: names of attributes of LayerInputs, passed in this order. random: whether the scores depend on the seed.
# heads: the corresponding head score, None if it ranks neurons only.
WEIGHT, VARIANCE, COVARIANCE = tensor("outputs", "inputs"), tensor("inputs"), tensor("inputs", "inputs")

SCORES = Registry("score", needs=(), random=False, heads=None, cites=())


def ridge_share(name, value):
    """A penalty of at least 0; an infinite one removes everything."""
    if value != math.inf and not (is_number(value) and value >= 0):
        raise ParameterError(f"{name}={value!r}: it must be a number of at least 0.")


class LayerInputs:
    """What a score may read of one layer.

    ``weight`` of the linear that reads the units, shape (n_outputs, n_inputs); ``n_units``; ``generator``; ``maps`` of
    networks, shape (n_maps, n_units), or None; ``head_dim`` or None; and the moments of the inputs, computed when they
    are read: ``mean``, ``variance``, ``second_moment``, shape (n_inputs,), ``covariance`` and ``gram``, shape
    (n_inputs, n_inputs).
    """

    def __init__(self, linear, moments, n_units, generator=None, maps=None, head_dim=None):
        self.weight, self.moments, self.n_units = weight_of(linear).detach(), moments, n_units
        self.generator, self.head_dim = generator, head_dim
        self.maps = None if maps is None else maps.to(self.weight.device)

    def __getattr__(self, name):
        return getattr(self.__dict__["moments"], name)

    def apply(self, member):
        """Call a registered score with what it needs."""
        return member(*(getattr(self, name) for name in member.needs))


def reads_networks(score):
    """Whether a score reads maps of networks."""
    return isinstance(score, str) and "maps" in SCORES[score].needs


def needs_covariance(score):
    """Whether a score reads more than variances: a function may read anything, given numbers need nothing."""
    return callable(score) or (isinstance(score, str) and bool({"covariance", "gram"} & set(SCORES[score].needs)))


def score_neurons(score, part, moments, maps=None, random_state=0):
    """Score the neurons of one layer, shape (n_neurons,), by name, by one array per layer, or by a function.

    A result that is not one finite number per neuron raises :class:`ParameterError`.
    """
    if callable(score):
        values = score(part, moments)
    elif isinstance(score, str):
        generator = torch.Generator().manual_seed((int(random_state) * 1_000_003 + part.layer) % 2**63)
        here = None if maps is None else maps[part.layer]
        values = LayerInputs(part.writer, moments, part.size, generator, here).apply(SCORES[score])
    else:
        values = torch.from_numpy(np.array(score[part.layer], dtype=np.float64))  # a copy: the caller may change theirs
    if values.numel() != part.size or not bool(torch.isfinite(values).all()):
        raise ParameterError(f"The score of layer {part.layer} must be {part.size} finite numbers.")
    return values


@SCORES.register("random", needs=("n_units", "generator"), random=True, heads="random")
@checked(n_units=count)
def random(n_units, generator=None):
    """Uniform random numbers, shape (n_units,): the baseline that every method must beat, over several seeds."""
    return torch.rand(n_units, generator=generator, dtype=torch.float64)


@SCORES.register("magnitude", needs=("weight",), heads="magnitude")
@checked(weight=WEIGHT)
def magnitude(weight):
    """Norm of the weights that leave each neuron, ``|W_:j|``.

    Examples
    --------
    >>> magnitude(torch.tensor([[3.0, 0.0], [4.0, 1.0]])).tolist()
    [5.0, 1.0]
    """
    return weight.double().norm(dim=0)


@SCORES.register("wanda", needs=("weight", "second_moment"), heads="wanda", cites=("sun2024wanda",))
@checked(weight=WEIGHT, second_moment=VARIANCE)
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


@SCORES.register("flap", needs=("weight", "variance"), heads="flap", cites=("an2024flap",))
@checked(weight=WEIGHT, variance=VARIANCE)
def flap(weight, variance):
    """FLAP's weighted input fluctuation (WIFV): ``var(x_j) |W_:j|^2``; An et al. 2024, eq. 5."""
    return variance.double().to(weight.device) * weight.double().square().sum(0)


def _damped_inverse(matrix, ridge):
    matrix = matrix.double()
    return solve_damped(matrix, torch.eye(len(matrix), dtype=torch.float64, device=matrix.device), ridge)


@SCORES.register("obs", needs=("weight", "gram"), heads="obs")
@checked(weight=WEIGHT, gram=COVARIANCE, ridge=ridge_share)
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
    """Give units that are never active the score 0; their entry of the inverse diagonal is an artefact."""
    diagonal = gram.diagonal()
    return torch.where(diagonal > 1e-14 * diagonal.mean(), score, torch.zeros_like(score))


@SCORES.register("greedy_obs", needs=("weight", "covariance"), heads="obs")
@checked(weight=WEIGHT, gram=COVARIANCE, ridge=ridge_share, min_kept=count)
def greedy_obs(weight, gram, ridge=1e-2, min_kept=1):
    """Order of removal when the worst column is removed first and the others are refitted after each removal.

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
        Cumulative error at the step at which each column is removed. It grows with the order of removal; the
        increments are the added squared errors per token.

    Examples
    --------
    Of two equal inputs one can be removed at no cost; the other then stands for both.

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


@SCORES.register("leverage", needs=("covariance", "weight"), heads="obs")
@checked(covariance=COVARIANCE, weight=WEIGHT, ridge=ridge_share)
def ridge_leverage(covariance, weight=None, ridge=1e-2):
    """Leverage of a unit in the joint activity of all units: ``1 - l [(C + l I)^-1]_jj``.

    Parameters
    ----------
    covariance : torch.Tensor, shape (n_inputs, n_inputs)
    weight : torch.Tensor, shape (n_outputs, n_inputs), optional
        If given, each channel is first scaled by the norm of its outgoing weights.
    ridge : float
        ``l`` as a share of the mean diagonal.

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


@SCORES.register("network", needs=("maps",), random=True, cites=("liu2025pruning",))
def union_z(maps):
    """Union of networks: the largest ``|z|`` of a unit over maps (the published rule; Liu et al. 2025).

    Parameters
    ----------
    maps : torch.Tensor, shape (n_maps, n_units)
        z-scored over units. Maps of several groups, or of several signals of the same units, are stacked.

    Returns
    -------
    torch.Tensor, shape (n_units,), float64
    """
    return torch.as_tensor(maps).double().abs().amax(0)


@SCORES.register(
    "network_flap", needs=("maps", "weight", "variance"), random=True, cites=("an2024flap", "liu2025pruning")
)
def network_flap(maps, weight, variance):
    """Union of networks times the FLAP score: ``max |z| * var(x_j) |W_:j|^2``."""
    return union_z(maps).to(weight.device) * flap(weight, variance)


@checked(size=count)
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
    choose("how", how, ("sum", "mean"))
    if values.shape[-1] % size:
        raise ParameterError(f"{values.shape[-1]} channels do not divide into heads of {size}.")
    blocks = values.reshape(*values.shape[:-1], -1, size)
    return blocks.sum(-1) if how == "sum" else blocks.mean(-1)


def obs_blocks(weight, gram, size, ridge=1e-2):
    """Optimal-brain-surgeon saliency of whole heads: ``1/2 tr(W_B [(H + l I)^-1]_BB^-1 W_B^T)``, shape (n_heads,)."""
    inverse = _damped_inverse(gram, ridge)
    weight = weight.to(inverse)
    values = []
    for start in range(0, len(inverse), size):
        part = slice(start, start + size)
        block = solve_damped(inverse[part, part], weight[:, part], 0.0)
        values.append(0.5 * (block * weight[:, part]).sum())
    return torch.stack(values)

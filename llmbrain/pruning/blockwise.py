"""Block-wise fits: the linears of cut blocks are fitted together to the residual stream of the dense model.

Least squares see one linear at a time and the error right behind it. Here all linears of a block and of those before
it, attention too, take gradient steps on the error of the stream a few layers later, behind the dense layers in
between. The target is the stream of the dense model on the calibration text: no label and no prediction is read, and
no gradient passes more than these layers. Fitting block by block is the reconstruction of Li et al. 2021 (BRECQ,
arXiv 2102.05426), windows of blocks that overlap are from Ding et al. 2023 (CBQ, arXiv 2312.07950).
"""

import numpy as np
import torch

from ..models.anatomy import anatomy_of
from ..models.linears import linears
from ..parallel import all_reduce
from ..stats.moments import Moments
from ..stats.precision import half_products, reduced_precision
from .descent import Descent, copies, put, trained
from .replay import Replay

RATE = 4e-3  # largest step of a weight, as a share of the root mean square of its matrix
ROWS = 2  # windows of a step
SPREAD = 0.5  # errors in a dimension of the stream are divided by this power of its spread
N_CHECKS = 10  # times the held-out error is measured


def fit_blocks(walk, layers, last, wanted, weights, held, chunks, n_steps):
    """Fit the linears of some blocks in place so that the stream after the layer ``last`` comes close to ``wanted``.

    Parameters
    ----------
    walk : Walk
        At the first of ``layers``; the layers after them are still dense.
    layers : range
        Consecutive layers that are fitted together.
    last : int
        Layer after which the stream is compared.
    wanted, weights : list of tensor
        Stream of the dense model after that layer, shape (n_windows, n_longest, hidden_size), and the weight of each
        token, 0 for padding, for each block of the walk.
    held : list of tensor or None
        Tokens held out in each block: the state with their lowest error is kept. Without them, that of the fitted ones
        decides.
    chunks : list of (int, slice)
        What a step may read, from :func:`chunks_of`.
    n_steps : int

    Returns
    -------
    float
        Error of the state that is kept, as a share of the error before.

    Notes
    -----
    A step reads two windows of one block, which one process has: it alone computes the gradient, so that several
    processes take the same steps as one.
    """
    parameters = [p for layer in layers for p in _parameters(walk.layers[layer])]
    fitted, judged = _sides(weights, held)
    scale = _scale(walk, wanted, fitted)
    own = {number: place for place, number in enumerate(walk.numbers)}
    path = range(layers[0], last + 1)

    def inputs(sides, block, rows):
        arguments = [walk.arguments(i, block, rows) for i in path]
        return walk.hidden[block][rows], arguments, wanted[block][rows], sides[block][rows]

    def error_of(hidden, arguments, target, weight):
        for i, given in zip(path, arguments):
            hidden = walk.apply(i, hidden, given)
        gap = ((hidden.float() - target.float()) * scale).square().sum(-1)
        return torch.stack([(gap * weight).sum(), weight.sum()]).double()

    @torch.no_grad()
    def error():
        with reduced_precision(), half_products(walk.device):
            totals = [error_of(*inputs(judged, i, slice(0, len(w)))) for i, w in enumerate(judged) if bool(w.any())]
        total = sum(totals, torch.zeros(2, dtype=torch.float64, device=walk.device))
        total, count = all_reduce(total).tolist()
        return total / max(count, 1e-300)

    @torch.enable_grad()
    def gradients_of(*given):
        with half_products(walk.device):
            total, count = error_of(*given)
        return torch.autograd.grad(total / (count * max(before, 1e-30)), parameters)

    before = lowest = error()
    best, order, replay = copies(parameters), _order(chunks, layers[-1]), Replay(gradients_of)
    rates = [RATE * float(p.detach().float().square().mean().sqrt()) for p in parameters]
    with trained(walk.model, parameters):
        descent = Descent(parameters, rates)
        for step in range(n_steps):
            number, rows = next(order)
            if number in own:
                with reduced_precision():
                    gradients = replay(*inputs(fitted, own[number], rows))
            else:
                gradients = [torch.zeros_like(p) for p in parameters]
            descent.step([all_reduce(g) for g in gradients], step / n_steps)
            if (step + 1) * N_CHECKS // n_steps > step * N_CHECKS // n_steps:
                now = error()
                if now < lowest:
                    best, lowest = copies(parameters), now
        put(parameters, best)
    return lowest / max(before, 1e-300)


def _scale(walk, wanted, weights):
    """Factor of each dimension of the stream in the error, shape (hidden_size,), from its spread over the tokens.

    A few dimensions of the stream are many times as large as the others, and would decide the error alone, although
    the norms of later layers weigh them down.
    """
    moments = Moments(anatomy_of(walk.model).config.hidden_size, full=False, device=walk.device)
    for x, weight in zip(wanted, weights):  # weighed, or the few tokens that attract attention would decide the spread
        moments.add(x, weights=weight)
    spread = moments.all_reduce().variance.sqrt()
    scale = spread.clamp_min(0.01 * spread.median()).pow(-SPREAD)  # those that hardly vary count ten times at most
    return (scale / scale.square().mean().sqrt()).float()


def _parameters(layer):
    """Weights and biases of all linears of a layer."""
    found = {p: None for linear in linears(layer).values() for p in linear.parameters(recurse=False)}
    return [p for p in found if p.is_floating_point()]


def _sides(weights, held):
    """Weights of the tokens that are fitted, and of those that judge."""
    if held is None:
        return weights, weights
    return [w * ~h for w, h in zip(weights, held)], [w * h for w, h in zip(weights, held)]


def chunks_of(masks, held, size=ROWS):
    """Number of a block, and ``size`` rows of it in which some tokens are fitted; over the blocks of all processes.

    With ``size=None`` all rows of a block are one chunk.
    """
    fitted = masks if not held else [m & ~h for m, h in zip(masks, held)]
    every = [
        (i, slice(row, row + step))
        for i, step in enumerate(size or len(mask) for mask in masks)
        for row in range(0, len(masks[i]), step)
    ]
    return [(i, rows) for i, rows in every if bool(fitted[i][rows].any())]


def _order(chunks, seed):
    """Chunks, in a new random order in every round."""
    rng = np.random.default_rng(seed)
    while True:
        yield from (chunks[i] for i in rng.permutation(len(chunks)))

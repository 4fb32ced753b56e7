"""Attention heads beside neurons: scores of groups that can go together, and one budget of parameters for both."""

import numpy as np
import torch

from ..exceptions import ParameterError
from ..models.anatomy import anatomy_of, weight_of
from ..models.surgery import channels, set_linear
from . import scores as sc
from .allocation import fill_by_curves, smooth_curves
from .compensation import compensate, default_ridge, frozen
from .engine import gather
from .walk import Walk

__all__ = ["head_scores", "heads_of", "joint_by_losses", "joint_counts", "measure_heads", "survey_heads"]


def head_scores(name, part, moments, generator=None):
    """Score of every query head of one layer, by the rule of the named neuron score.

    Parameters
    ----------
    name : str
        ``random``, ``magnitude``, ``wanda``, ``flap``, or a second-order score (all of which use the block form of
        OBS).
    part : Attention
    moments : Moments
        Of the inputs of the output projection.
    generator : torch.Generator, optional

    Returns
    -------
    torch.Tensor, shape (n_heads,)
    """
    weight, size = weight_of(part.writer).detach(), part.head_dim
    if name == "random":
        return sc.random(part.n_heads, generator)
    if name == "magnitude":
        return sc.block_sum(sc.magnitude(weight), size)
    if name == "wanda":
        return sc.block_sum(sc.wanda_sp(weight, moments.second_moment), size)
    if name in ("obs", "greedy_obs", "leverage"):
        return sc.obs_blocks(weight, moments.gram, size)
    # FLAP's rule, also for the scores that know neurons alone
    return sc.block_sum(sc.flap(weight, moments.variance), size, "mean")


def survey_heads(walk, parts, name, *, random_state=0, weighting=None):
    """Walk the dense model and score the heads of every layer.

    Returns
    -------
    list of torch.Tensor, shape (n_heads,)
    """
    found = []
    for part in parts:
        full = name in ("obs", "greedy_obs", "leverage")
        moments, _ = gather(walk, part.layer, part.writer, full=full, weighting=weighting)
        generator = torch.Generator().manual_seed(int(random_state) * 1_000_003 + 7919 + part.layer)
        found.append(head_scores(name, part, moments, generator).cpu())
        walk.advance(part.layer)
    return found


def unit_scores(part, scores, unit):
    """Scores of what can go in one step, the most dispensable first, and the query heads of each step.

    Parameters
    ----------
    part : Attention
    scores : torch.Tensor, shape (n_heads,)
    unit : {"group", "query"}
        ``group``: a key/value head with its query heads. ``query``: the weakest query head of every group at once.

    Returns
    -------
    values : numpy.ndarray, shape (n_units,)
        Rising.
    steps : list of list of int
        Query heads that go with each unit.
    """
    table = scores.double().reshape(part.n_kv_heads, part.group).numpy()
    if unit == "group":
        values = table.sum(1)
        order = np.argsort(values, kind="stable")
        return values[order], [list(range(g * part.group, (g + 1) * part.group)) for g in order]
    order = np.argsort(table, axis=1, kind="stable")
    values = np.sort(table, axis=1).sum(0)
    return values, [[g * part.group + int(order[g, j]) for g in range(part.n_kv_heads)] for j in range(part.group)]


def unit_cost(part, unit):
    """Parameters that go with one unit of heads."""
    return part.unit_cost if unit == "group" else part.row_cost


def joint_counts(neuron_scores, unit_values, neuron_costs, unit_costs, budget, *, floors):
    """One threshold for neurons and heads, each standardised within its layer and kind (the joint rule of FLAP).

    Parameters
    ----------
    neuron_scores : list of array, shape (n_neurons,)
    unit_values : list of array, shape (n_units,)
        Rising scores of the head units of each layer; one unit always stays.
    neuron_costs, unit_costs : sequence of float
        Parameters of a neuron, and of a head unit, of each layer.
    budget : float
        Parameters to remove.
    floors : sequence of int
        Fewest neurons of each layer.

    Returns
    -------
    counts : numpy.ndarray of int
        Neurons that stay in each layer.
    units_removed : numpy.ndarray of int
        Head units that go from each layer.
    """
    rows = []
    for i, (neurons, units) in enumerate(zip(neuron_scores, unit_values)):
        z = _standardise(np.asarray(neurons, dtype=float))
        order = np.argsort(z, kind="stable")[: len(z) - int(floors[i])]
        rows += [(z[j], 0, i, neuron_costs[i]) for j in order]
        z = _standardise(np.asarray(units, dtype=float))
        rows += [(value, 1, i, unit_costs[i]) for value in z[: max(len(z) - 1, 0)]]
    rows.sort(key=lambda row: row[0])
    counts = np.array([len(s) for s in neuron_scores])
    removed = np.zeros(len(counts), dtype=int)
    spent = 0.0
    for _, kind, layer, cost in rows:
        if spent + cost / 2 > budget:
            if kind == 0:
                break
            continue  # a head is too big for what is left; neurons may still fit
        spent += cost
        if kind:
            removed[layer] += 1
        else:
            counts[layer] -= 1
    if spent < budget - max(neuron_costs):
        raise ParameterError("The budget is larger than what floors and last heads leave to remove; lower the ratio.")
    return counts, removed


def _standardise(values):
    return (values - values.mean()) / (values.std() or 1.0)


def heads_of(part, scores, n_removed, unit):
    """Query heads that stay when the weakest units of a layer go.

    Returns
    -------
    numpy.ndarray of int
    """
    _, steps = unit_scores(part, scores, unit)
    gone = {h for step in steps[: int(n_removed)] for h in step}
    return np.array([h for h in range(part.n_heads) if h not in gone])


@torch.no_grad()
def measure_heads(model, parts, steps, fit_blocks, probe, *, weighting=None):
    """What the model loses when one unit of heads alone is silenced and the output projection refitted.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Dense; dense again afterwards.
    parts : list of Attention
    steps : list of list of list of int
        For each layer the query heads of each unit, see :func:`unit_scores`.
    fit_blocks : list of Block
        Windows for the refits.
    probe : Probe
        Holds the windows on which the divergence is measured.
    weighting : callable, optional

    Returns
    -------
    list of numpy.ndarray, shape (n_units,)
        Divergence, nats per token.
    """
    from .search import run_rest

    fit_walk, probe_walk, norm = Walk(model, fit_blocks), Walk(model, probe.blocks), anatomy_of(model).norm
    found = []
    for part, units in zip(parts, steps):
        moments = frozen(gather(fit_walk, part.layer, part.writer, weighting=weighting)[0])
        weight, bias, original = weight_of(part.writer).detach(), part.writer.bias, part.writer.weight
        losses = []
        for heads in units if len(units) > 1 else []:
            stay = torch.tensor([h for h in range(part.n_heads) if h not in heads])
            kept = channels(stay, part.head_dim).to(weight.device)
            refit = compensate(weight, moments, kept, "affine", default_ridge(moments.n, len(kept)))
            full = torch.zeros_like(weight)
            full[:, kept] = refit.weight.to(full.dtype)
            try:
                set_linear(part.writer, full, refit.bias if bias is None else refit.bias + bias)
                losses.append(probe.divergence(run_rest(probe_walk, part.layer, norm)))
            finally:
                part.writer.weight, part.writer.bias = original, bias
        found.append(np.array(losses if losses else [np.inf] * len(units)))
        fit_walk.advance(part.layer)
        probe_walk.advance(part.layer)
    return found


def joint_by_losses(head_losses, unit_costs, neuron_losses, levels, sizes, neuron_costs, budget, *, floors, extremes):
    """Heads and neurons by what was measured: as many heads as lower the loss that is predicted for the budget.

    Units of heads are taken in the order of their loss for each parameter (the second of a layer counts twice, and so
    on; one always stays), the neurons fill the rest along their curves.

    Parameters
    ----------
    head_losses : list of array, shape (n_units,)
        From :func:`measure_heads`.
    unit_costs, neuron_costs : sequence of float
        Parameters of a head unit, and of a neuron, of each layer.
    neuron_losses : array, shape (n_layers, n_levels)
    levels : sequence of float
    sizes : sequence of int
    budget : float
        Parameters to remove.
    floors : sequence of int
    extremes : float
        See :func:`llmbrain.pruning.allocation.fill_by_curves`.

    Returns
    -------
    n_keep : int
        Neurons that stay in all.
    removed : list of list of int
        Units of heads that go from each layer.
    """
    rows = []
    for layer, losses in enumerate(head_losses):
        order = np.argsort(losses, kind="stable")[: max(len(losses) - 1, 0)]
        rows += [((k + 1) * losses[j], layer, int(j)) for k, j in enumerate(order) if np.isfinite(losses[j])]
    rows.sort(key=lambda row: row[0] / unit_costs[row[1]])
    curves, grid = smooth_curves(neuron_losses, levels), [0.0, *levels]
    cost, sizes = float(np.average(neuron_costs, weights=sizes)), np.asarray(sizes)
    best, spent, lost = None, 0.0, 0.0
    for m in range(len(rows) + 1):
        n_keep = int(sizes.sum() - round((budget - spent) / cost))
        if np.sum(floors) <= n_keep <= sizes.sum():
            counts = fill_by_curves(curves, grid, sizes, n_keep, floors=floors, extremes=extremes)
            predicted = lost + sum(np.interp(1 - c / s, grid, y) for c, s, y in zip(counts, sizes, curves))
            if best is None or predicted < best[0]:
                best = (predicted, n_keep, m)
        if m < len(rows):
            lost, spent = lost + rows[m][0], spent + unit_costs[rows[m][1]]
    if best is None:
        raise ParameterError("The budget is larger than what floors and last heads leave to remove; lower the ratio.")
    removed = [[] for _ in head_losses]
    for _, layer, unit in rows[: best[2]]:
        removed[layer].append(unit)
    return best[1], removed

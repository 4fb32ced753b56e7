"""Attention heads: their scores, the units that can be removed together, and budgets for heads and neurons."""

import numpy as np
import torch

from ..exceptions import ParameterError
from ..models.anatomy import anatomy_of
from ..models.hooks import restoring
from ..models.linears import weight_of
from ..models.surgery import channels, set_linear, weights_of
from ..registry import Registry
from . import scores as sc
from .allocation import fill_by_curves, smooth_curves
from .allocation.probe import probing
from .allocation.supernet import run_rest
from .compensation import compensate, default_ridge
from .equations import frozen
from .survey import gather
from .walk import Walk

# needs: names of attributes of scores.LayerInputs, passed in this order. random: whether it draws at random.
HEAD_SCORES = Registry("head score", needs=(), random=False)
# Called as unit(part), with the methods order(scores) and the attribute cost.
HEAD_UNITS = Registry("head unit")
# Called with what they need of measured.Measured, and the budget in parameters.
HEAD_BUDGETS = Registry("budget of heads", needs=())


@HEAD_SCORES.register("random", needs=("n_units", "generator"), random=True)
def random_heads(n_heads, generator=None):
    """Uniform random numbers."""
    return sc.random(n_heads, generator)


@HEAD_SCORES.register("magnitude", needs=("weight", "head_dim"))
def magnitude_heads(weight, head_dim):
    """Sum of the norms of the weights that leave each channel."""
    return sc.block_sum(sc.magnitude(weight), head_dim)


@HEAD_SCORES.register("wanda", needs=("weight", "second_moment", "head_dim"))
def wanda_heads(weight, second_moment, head_dim):
    """Sum of the Wanda scores of the channels."""
    return sc.block_sum(sc.wanda_sp(weight, second_moment), head_dim)


@HEAD_SCORES.register("flap", needs=("weight", "variance", "head_dim"))
def flap_heads(weight, variance, head_dim):
    """Mean of the FLAP scores of the channels."""
    return sc.block_sum(sc.flap(weight, variance), head_dim, "mean")


@HEAD_SCORES.register("obs", needs=("weight", "gram", "head_dim"))
def obs_heads(weight, gram, head_dim):
    """Optimal-brain-surgeon saliency of the whole block of channels."""
    return sc.obs_blocks(weight, gram, head_dim)


def survey_heads(walk, parts, name, *, random_state=0, weighting=None, progress=None):
    """Walk the dense model once and score the query heads of every layer, shape (n_heads,) each."""
    member, found = HEAD_SCORES[name], []
    full = bool({"covariance", "gram"} & set(member.needs))
    for part in parts:
        moments, _ = gather(walk, part.layer, part.writer, full=full, weighting=weighting)
        generator = torch.Generator().manual_seed(int(random_state) * 1_000_003 + 7919 + part.layer)
        inputs = sc.LayerInputs(part.writer, moments, part.n_heads, generator, head_dim=part.head_dim)
        found.append(inputs.apply(member).cpu())
        walk.advance(part.layer)
        if progress:
            progress()
    return found


@HEAD_UNITS.register("group")
class GroupUnit:
    """A key/value head with its query heads."""

    def __init__(self, part):
        self.part, self.cost = part, part.unit_cost

    def order(self, scores):
        """Rising scores of the units, shape (n_units,), and the query heads of each."""
        group = self.part.group
        values = scores.double().reshape(self.part.n_kv_heads, group).numpy().sum(1)
        order = np.argsort(values, kind="stable")
        return values[order], [list(range(g * group, (g + 1) * group)) for g in order]


@HEAD_UNITS.register("query")
class QueryUnit:
    """The weakest query head of every group at once."""

    def __init__(self, part):
        self.part, self.cost = part, part.row_cost

    def order(self, scores):
        """Rising scores of the units, and the query heads of each."""
        n_kv, group = self.part.n_kv_heads, self.part.group
        table = scores.double().reshape(n_kv, group).numpy()
        order = np.argsort(table, axis=1, kind="stable")
        values = np.sort(table, axis=1).sum(0)
        return values, [[g * group + int(order[g, j]) for g in range(n_kv)] for j in range(group)]


# -- budgets of parameters: each returns the neurons to keep (in total or per layer) and the units of heads to remove -
@HEAD_BUDGETS.register("share", needs=("unit_scores", "unit_costs", "sizes", "neuron_costs"))
def share_budget(unit_scores, unit_costs, sizes, neuron_costs, budget):
    """Remove the same share of heads and of neurons."""
    whole = sum(c * len(v) for c, v in zip(unit_costs, unit_scores)) + float(np.dot(neuron_costs, sizes))
    removed = [min(round(budget / whole * len(v)), len(v) - 1) for v in unit_scores]
    left = budget - float(np.dot(removed, unit_costs))
    return sum(sizes) - round(left / float(np.mean(neuron_costs))), [range(n) for n in removed]


@HEAD_BUDGETS.register("joint", needs=("recipe_scores", "unit_scores", "neuron_costs", "unit_costs", "floors"))
def joint_budget(recipe_scores, unit_scores, neuron_costs, unit_costs, floors, budget):
    """Apply one threshold to standardised scores of heads and neurons, which also gives the neurons of each layer."""
    counts, removed = joint_counts(recipe_scores, unit_scores, neuron_costs, unit_costs, budget, floors=floors)
    return counts, [range(n) for n in removed]


@HEAD_BUDGETS.register("threshold", needs=("recipe_scores", "unit_scores", "neuron_costs", "unit_costs", "floors"))
def threshold_budget(recipe_scores, unit_scores, neuron_costs, unit_costs, floors, budget):
    """Apply the joint threshold to the heads; the allocation spreads the remaining neurons over the layers."""
    counts, removed = joint_budget(recipe_scores, unit_scores, neuron_costs, unit_costs, floors, budget)
    return int(counts.sum()), removed


@HEAD_BUDGETS.register("losses", needs=("head_losses", "unit_costs", "curves", "neuron_costs", "floors", "extremes"))
def loss_budget(head_losses, unit_costs, curves, neuron_costs, floors, extremes, budget):
    """Compare the measured divergence without a unit of heads with that without neurons.

    Units of heads are removed in the order of their loss per parameter (the second of a layer counts twice, and so on;
    one is always kept); neurons fill the rest along their curves. As many heads are removed as lower the loss predicted
    for the budget.
    """
    rows = []
    for layer, losses in enumerate(head_losses):
        order = np.argsort(losses, kind="stable")[: max(len(losses) - 1, 0)]
        rows += [((k + 1) * losses[j], layer, int(j)) for k, j in enumerate(order) if np.isfinite(losses[j])]
    rows.sort(key=lambda row: row[0] / unit_costs[row[1]])
    smooth, grid, sizes = smooth_curves(curves.losses, curves.levels), [0.0, *curves.levels], np.asarray(curves.sizes)
    cost = float(np.average(neuron_costs, weights=sizes))
    best, spent, lost = None, 0.0, 0.0
    for m in range(len(rows) + 1):
        n_keep = int(sizes.sum() - round((budget - spent) / cost))
        if np.sum(floors) <= n_keep <= sizes.sum():
            counts = fill_by_curves(smooth, grid, sizes, n_keep, floors=floors, extremes=extremes)
            predicted = lost + sum(np.interp(1 - c / s, grid, y) for c, s, y in zip(counts, sizes, smooth))
            if best is None or predicted < best[0]:
                best = (predicted, n_keep, m)
        if m < len(rows):
            lost, spent = lost + rows[m][0], spent + unit_costs[rows[m][1]]
    if best is None:
        raise ParameterError("The budget exceeds what the floors and the last heads allow to remove. Lower the ratio.")
    removed = [[] for _ in head_losses]
    for _, layer, unit in rows[: best[2]]:
        removed[layer].append(unit)
    return best[1], removed


def joint_counts(neuron_scores, unit_values, neuron_costs, unit_costs, budget, *, floors):
    """Apply one threshold to neurons and heads, each standardised within its layer and kind (the joint rule of FLAP).

    ``unit_values`` are the rising scores of the head units of each layer, one of which is always kept; costs and
    ``budget`` are in parameters. Returns the neurons kept in and the head units removed from each layer, two arrays of
    int.
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
            continue  # a head is too large for the rest of the budget; neurons may still fit
        spent += cost
        if kind:
            removed[layer] += 1
        else:
            counts[layer] -= 1
    if spent < budget - max(neuron_costs):
        raise ParameterError("The budget exceeds what the floors and the last heads allow to remove. Lower the ratio.")
    return counts, removed


def _standardise(values):
    return (values - values.mean()) / (values.std() or 1.0)


@torch.no_grad()
def measure_heads(model, parts, steps, fit_blocks, probe, *, weighting=None, progress=None):
    """Measure the divergence when only one unit of heads is silenced and the output projection is refitted.

    ``steps`` are the query heads of each unit of each layer. The model is dense before and after. Returns an array of
    shape (n_units,) per layer, nats per token.
    """
    fit_walk, norm = Walk(model, fit_blocks), anatomy_of(model).norm
    with probing(probe.device):
        probe_walk = Walk(model, probe.blocks)
    found = []
    for part, units in zip(parts, steps):
        moments = frozen(gather(fit_walk, part.layer, part.writer, weighting=weighting)[0])
        weight, bias, put_back = weight_of(part.writer).detach(), part.writer.bias, weights_of([part.writer])
        losses = []
        for heads in units if len(units) > 1 else []:
            stay = torch.tensor([h for h in range(part.n_heads) if h not in heads])
            kept = channels(stay, part.head_dim).to(weight.device)
            refit = compensate(weight, moments, kept, "affine", default_ridge(moments.n, len(kept)))
            full = torch.zeros_like(weight)
            full[:, kept] = refit.weight.to(full.dtype)
            with restoring(put_back), probing(probe.device):
                set_linear(part.writer, full, refit.bias if bias is None else refit.bias + bias)
                losses.append(probe.divergence(run_rest(probe_walk, part.layer, norm)))
        found.append(np.array(losses if losses else [np.inf] * len(units)))
        fit_walk.advance(part.layer)
        with probing(probe.device):
            probe_walk.advance(part.layer)
        if progress:
            progress()
    return found

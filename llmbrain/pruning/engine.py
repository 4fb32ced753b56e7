"""Measuring a model layer by layer: moments of the inputs of its linears, scores and sensitivities."""

from dataclasses import dataclass

import torch

from ..models.anatomy import features, weight_of
from ..models.hooks import site_hooks
from ..models.sites import Site
from ..stats.moments import Moments
from .compensation import schur_residual

__all__ = ["LayerSurvey", "gather", "stream_weighting", "survey", "token_weights", "writes_to_stream"]


@dataclass
class LayerSurvey:
    """What the first walk learns about one layer.

    Attributes
    ----------
    mean, variance : torch.Tensor, shape (n_units,)
    score : torch.Tensor, shape (n_units,)
    sensitivity : float or None
        Schur residual at half removal over the power of the residual stream.
    power : float or None
        Of the residual stream behind the layer, median over tokens.
    """

    mean: torch.Tensor
    variance: torch.Tensor
    score: torch.Tensor
    sensitivity: float | None = None
    power: float | None = None


def input_site(linear, name="", layer=0):
    """The input of a linear, as a site that can be hooked."""
    size = features(linear)[0]
    return Site(layer, name, linear, "input", size, 0, size)


def output_site(linear, name="", layer=0):
    """The output of a linear, as a site that can be hooked."""
    size = features(linear)[1]
    return Site(layer, name, linear, "output", size, 0, size)


class _Catch:
    """Keeps the last activations that passed a site."""

    def __init__(self):
        self.value = None

    def __call__(self, i, x):
        self.value = x


def stream_weighting(output):
    """Weight of each token: one over the power of its residual stream, relative to the median token, at most 4.

    The norm that every later layer reads through divides by that power, so errors matter relative to it; without the
    weights, a handful of tokens with massive activations decides the fit.
    """
    power = output.float().square().sum(-1)
    return (power.median() / power.clamp_min(1e-12)).clamp_max(4.0)


def gather(walk, layer, linear, *, full=True, targets=None, held=None, hidden=None, weighting=None, outputs=None):
    """Moments of the inputs of one linear over all blocks.

    Parameters
    ----------
    walk : Walk
    layer : int
    linear : torch.nn.Module
        Lies inside ``walk.layers[layer]``.
    full : bool
        Covariances, or variances only.
    targets : callable, optional
        ``targets(block, output)`` gives what the layer's output should gain, shape of the output.
    held : list of torch.Tensor of bool, optional
        Tokens of each block whose moments are kept apart.
    hidden : list of torch.Tensor, optional
        Inputs of the layer in the place of the walk's.
    weighting : callable, optional
        ``weighting(output)`` gives what each token counts, from the layer's output; by default all count the same.
    outputs : list, optional
        The layer's outputs are appended to it, so that they need not be computed again.

    Returns
    -------
    fit, held_out : Moments
        ``held_out`` is None without ``held``.
    """
    n_in, n_out = features(linear)
    kind = {"n_targets": n_out if targets else 0, "full": full, "device": walk.device}
    moments = [Moments(n_in, **kind), None if held is None else Moments(n_in, **kind)]
    catch = _Catch()
    with torch.no_grad(), site_hooks([input_site(linear)], catch):
        for i in range(len(walk.blocks)):
            output = walk.run(layer, i, None if hidden is None else hidden[i])
            if outputs is not None:
                outputs.append(output)
            y = targets(i, output) if targets else None
            weights = token_weights(walk, i, output, weighting)
            split_update(moments, catch.value, y, weights, None if held is None else held[i])
    return moments[0], moments[1] if moments[1] is not None and moments[1].n else None


def split_update(moments, x, y, weights, held):
    """Add a block to the moments of the fitted and of the held-out tokens."""
    if held is None or not bool(held.any()):
        moments[0].add(x, y, weights)
        return
    every = torch.ones(held.shape, device=held.device) if weights is None else weights.to(torch.float32)
    for side, chosen in zip(moments, (~held, held)):
        side.add(x, y, every * chosen)


def token_weights(walk, block, output, weighting=None):
    """What each token of a block counts; None where all count the same and nothing is padding."""
    mask = walk.masks[block]
    if weighting is None:
        return None if bool(mask.all()) else mask
    return weighting(output) * mask


@torch.no_grad()
def writes_to_stream(walk, layer, linear, silenced=None):
    """Whether what a linear writes is added to the layer's output as it is (no norm or gate in between).

    ``silenced`` is a linear whose output is held at zero meanwhile: the MLP, when attention is asked about.
    """
    quiet = [] if silenced is None else [output_site(silenced)]
    with site_hooks(quiet, lambda i, x: torch.zeros_like(x)):
        plain = walk.run(layer, 0)
        scale = plain.float().std()
        push = torch.linspace(-1, 1, features(linear)[1], device=plain.device) * scale
        with site_hooks([output_site(linear)], lambda i, x: x + push.to(x.dtype)):
            pushed = walk.run(layer, 0)
    # The median: single channels with massive values have no digits left for the push in half precision.
    return bool(((pushed.float() - plain.float()) - push).abs().median() < 2e-2 * scale)


def survey(walk, parts, rules, *, full, schur=False, weighting=None, progress=None):
    """Walk the dense model once and score every layer, by as many rules as are wanted.

    Parameters
    ----------
    walk : Walk
        At the first layer; stands behind the last one afterwards.
    parts : list of Mlp
    rules : dict of callable
        ``rules[name](part, moments)`` gives one number a neuron.
    full : bool
        Whether a rule needs covariances.
    schur : bool
        Whether the sensitivity of each layer is wanted.
    weighting : callable, optional
        See :func:`gather`.
    progress : callable, optional
        Called after every layer.

    Returns
    -------
    dict of list of LayerSurvey
    """
    found = {name: [] for name in rules}
    for part in parts:
        outputs = []
        moments, _ = gather(walk, part.layer, part.writer, full=full or schur, weighting=weighting, outputs=outputs)
        walk.restart(outputs)
        power = _stream_power(walk)
        for name, rule in rules.items():
            values = rule(part, moments).to(walk.device)
            layer = LayerSurvey(moments.mean, moments.variance, values, power=power)
            if schur:
                kept = values.topk(max(1, part.size // 2)).indices
                residual = schur_residual(weight_of(part.writer), moments.covariance, kept, 1e-2)
                layer.sensitivity = residual / power
            found[name].append(layer)
        if progress:
            progress()
    return found


def _stream_power(walk):
    """Median over tokens of the squared norm of the residual stream; the few massive tokens do not count more."""
    power = [h.float().square().sum(-1)[m] for h, m in zip(walk.hidden, walk.masks)]
    return float(torch.cat(power).median())

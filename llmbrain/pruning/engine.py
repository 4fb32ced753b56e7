"""The two walks of pruning: a survey of the dense model, and the walk that cuts and refits layer by layer."""

from dataclasses import dataclass, field

import numpy as np
import torch

from ..models.hooks import site_hooks
from ..models.sites import Site
from .calibration import Walk
from .compensation import choose_ridge, compensate, default_ridge, schur_residual
from .statistics import Moments, held_out_share
from .surgery import slice_mlp
from .units import features, weight_of

__all__ = ["LayerSurvey", "cut", "gather", "survey", "writes_to_stream"]


@dataclass
class LayerSurvey:
    """What the first walk learns about one layer.

    Attributes
    ----------
    mean, variance : torch.Tensor, shape (n_units,)
    score : torch.Tensor, shape (n_units,)
    sensitivity : float or None
        Schur residual at half removal over the power of the residual stream.
    """

    mean: torch.Tensor
    variance: torch.Tensor
    score: torch.Tensor
    sensitivity: float | None = None
    extra: dict = field(default_factory=dict)


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


def gather(walk, layer, linear, *, full=True, targets=None, held=None, hidden=None):
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
    held : list of bool, optional
        Blocks whose moments are kept apart.
    hidden : list of torch.Tensor, optional
        Inputs of the layer in the place of the walk's.

    Returns
    -------
    fit, held_out : Moments
        ``held_out`` is None without ``held``.
    """
    n_in, n_out = features(linear)
    kind = {"n_targets": n_out if targets else 0, "full": full, "device": walk.device}
    moments = [Moments(n_in, **kind), Moments(n_in, **kind) if held and any(held) else None]
    catch = _Catch()
    with torch.no_grad(), site_hooks([input_site(linear)], catch):
        for i in range(len(walk.blocks)):
            output = walk.run(layer, i, None if hidden is None else hidden[i])
            y = targets(i, output) if targets else None
            mask = None if bool(walk.masks[i].all()) else walk.masks[i]
            moments[1 if held and held[i] else 0].update(catch.value, y, mask)
    return tuple(moments)


@torch.no_grad()
def writes_to_stream(walk, layer, linear):
    """Whether what a linear writes is added to the layer's output as it is (no norm or gate in between)."""
    hidden = walk.hidden[0][:1]
    args, kwargs = walk._arguments[0][layer]
    kwargs = {k: _first_row(v, len(walk.hidden[0])) for k, v in kwargs.items()}
    plain = walk.layers[layer](hidden, *args, **kwargs)
    plain = plain[0] if isinstance(plain, tuple) else plain
    scale = plain.float().std()
    push = torch.linspace(-1, 1, features(linear)[1], device=plain.device) * scale
    with site_hooks([output_site(linear)], lambda i, x: x + push.to(x.dtype)):
        pushed = walk.layers[layer](hidden, *args, **kwargs)
    pushed = pushed[0] if isinstance(pushed, tuple) else pushed
    return bool(((pushed - plain).float() - push).abs().max() < 2e-2 * scale)


def _first_row(value, n):
    """First row of what is batched; everything else as it is."""
    if torch.is_tensor(value) and value.ndim and value.shape[0] == n:
        return value[:1]
    if isinstance(value, tuple):
        return tuple(_first_row(v, n) for v in value)
    return value


def survey(walk, parts, score, *, full, schur=False, progress=None):
    """Walk the dense model once and score every layer.

    Parameters
    ----------
    walk : Walk
        At the first layer; stands behind the last one afterwards.
    parts : list of MLPPart
    score : callable
        ``score(part, moments)`` gives one number a neuron.
    full : bool
        Whether the score needs covariances.
    schur : bool
        Whether the sensitivity of each layer is wanted.
    progress : callable, optional
        Called after every layer.

    Returns
    -------
    list of LayerSurvey
    """
    found = []
    for part in parts:
        moments, _ = gather(walk, part.layer, part.down, full=full or schur)
        values = score(part, moments).to(walk.device)
        layer = LayerSurvey(moments.mean, moments.variance, values)
        walk.advance(part.layer)
        if schur:
            kept = values.topk(max(1, part.size // 2)).indices
            residual = schur_residual(weight_of(part.down), moments.covariance, kept, 1e-2)
            layer.sensitivity = residual / _stream_power(walk)
        found.append(layer)
        if progress:
            progress()
    return found


def _stream_power(walk):
    """Median over tokens of the squared norm of the residual stream; the few massive tokens do not count more."""
    power = [h.float().square().sum(-1)[m] for h, m in zip(walk.hidden, walk.masks)]
    return float(torch.cat(power).median())


def cut(model, blocks, parts, kept, *, compensation, options, progress=None):
    """Walk the model once more, slicing and refitting every layer.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Changed in place.
    blocks : list of Block
    parts : list of MLPPart
    kept : list of torch.Tensor
        Neurons that stay, a layer.
    compensation : str
    options : Options
    progress : callable, optional

    Returns
    -------
    pandas.DataFrame
        A row a layer: ``layer, n_neurons, n_kept, ridge, error`` (share of the output's variance that is lost on
        held-out windows, else on the fitted ones).
    """
    import pandas as pd

    simple = compensation == "none"
    rows, walk = [], None if simple else Walk(model, blocks)
    stream = options.target == "stream" and options.propagation == "sequential" and not simple
    dense = None if simple else list(walk.hidden)
    held = held_out_share(len(blocks), options.held_out) if options.ridge == "auto" and not simple else None
    for part, keep in zip(parts, kept):
        keep = torch.as_tensor(np.asarray(keep), dtype=torch.long)
        row = {"layer": part.layer, "n_neurons": part.size, "n_kept": len(keep), "ridge": np.nan, "error": np.nan}
        rows.append(row)
        whole = len(keep) == part.size
        if simple:
            if not whole:
                slice_mlp(part, keep)
            continue
        if stream:
            dense = [walk.run(part.layer, i, h) for i, h in enumerate(dense)]
        following = None
        if not whole:
            refit, following = _fit_layer(walk, part, keep, compensation, options, held, dense if stream else None, row)
            slice_mlp(part, keep, refit)
        if options.propagation == "sequential" or following is None:
            walk.advance(part.layer)
        else:
            walk.restart(following)
        if progress:
            progress()
    return pd.DataFrame(rows)


def _fit_layer(walk, part, keep, compensation, options, held, dense, row):
    """Refit one layer; with one-shot statistics, also the dense outputs that the next layer is to see."""
    following = [] if options.propagation == "one-shot" else None
    full = compensation in ("ridge", "affine")
    stream = dense is not None and full and writes_to_stream(walk, part.layer, part.down)

    def targets(i, output):
        return dense[i] - output

    def note(i, output):
        following.append(output)

    want = targets if stream else (note if following is not None else None)
    if want is note:
        fit, out = _gather_and_note(walk, part, full, held, following)
    else:
        fit, out = gather(walk, part.layer, part.down, full=full, targets=want, held=held if full else None)
    weight = weight_of(part.down).detach()
    ridge = options.ridge
    if full and ridge == "auto":
        if out is not None:
            ridge, _ = choose_ridge(weight, fit, out, keep, compensation)
        else:
            ridge = default_ridge(fit.n, len(keep))
    if full and out is not None:
        row["error"] = _lost(weight, out, keep, compensate(weight, fit, keep, compensation, ridge))
        fit = fit + out
    refit = compensate(weight, fit, keep, compensation, ridge)
    if full and np.isnan(row["error"]):
        row["error"] = _lost(weight, fit, keep, refit)
    row["ridge"] = np.nan if refit.ridge is None else refit.ridge
    return refit, following


def _gather_and_note(walk, part, full, held, following):
    """Moments, and the dense outputs on the side."""
    n_in = features(part.down)[0]
    apart = full and held and any(held)
    moments = [Moments(n_in, full=full, device=walk.device) for _ in range(2 if apart else 1)]
    catch = _Catch()
    with torch.no_grad(), site_hooks([input_site(part.down)], catch):
        for i in range(len(walk.blocks)):
            following.append(walk.run(part.layer, i))
            mask = None if bool(walk.masks[i].all()) else walk.masks[i]
            moments[1 if apart and held[i] else 0].update(catch.value, None, mask)
    return moments[0], moments[1] if apart else None


def _lost(weight, moments, keep, refit):
    """Error of a refit as a share of the variance of the wanted output."""
    from .compensation import output_error

    weight = weight.to(moments.device, torch.float64)
    power = ((weight @ moments.covariance) * weight).sum()
    if moments.n_targets:
        power = power + 2 * (weight * moments.cross_covariance).sum() + moments.target_variance.sum()
    return output_error(weight, moments, keep, refit) / max(float(power), 1e-300)

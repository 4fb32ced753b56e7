"""The walk that cuts: every layer is sliced and refitted to inputs that have passed the layers cut before it."""

import math

import numpy as np
import torch

from ..models.anatomy import features, weight_of
from ..models.hooks import site_hooks
from ..models.surgery import channels, set_linear, slice_attention, slice_mlp
from ..stats.moments import Moments
from .compensation import choose_ridge, compensate, default_ridge, frozen, output_error
from .engine import gather, input_site, output_site, split_update, stream_weighting, token_weights, writes_to_stream
from .reconstruct import Samples, reconstruct
from .walk import Walk, held_out_masks

__all__ = ["Cutter", "cut"]

# Tokens for each unknown from which the last fit takes in the held-out tokens as well. With fewer, they would look
# better behind the first layers than any other text does, and mislead the choices of all later layers.
ENOUGH = 20


def cut(model, blocks, parts, kept, *, compensation, options, attention=None, kept_heads=None, progress=None):
    """Slice and refit a model, layer by layer.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Changed in place.
    blocks : list of Block
    parts : list of Mlp
    kept : list of array of int
        Neurons that stay, a layer.
    compensation : str
    options : Options
    attention : list of Attention, optional
        Needed for ``kept_heads`` and for ``options.refit_attention``.
    kept_heads : list of array of int, optional
        Query heads that stay, a layer.
    progress : callable, optional

    Returns
    -------
    pandas.DataFrame
        A row a layer: ``layer, n_neurons, n_kept, ridge, error`` (share of the power of the wanted output that is
        missed on
        held-out windows, else on the fitted ones), ``reconstruction`` (what is left of that error once the readers are
        refitted too).
    """
    import pandas as pd

    kept = [torch.as_tensor(np.asarray(k), dtype=torch.long) for k in kept]
    if kept_heads is None:
        kept_heads = [None] * len(parts)
    if compensation == "none":
        rows = []
        for part, keep, heads, i in zip(parts, kept, kept_heads, range(len(parts))):
            if heads is not None and len(heads) < attention[i].n_heads:
                slice_attention(attention[i], heads)
            if len(keep) < part.size:
                slice_mlp(part, keep)
            rows.append(_row(part, keep))
            if progress:
                progress()
        return pd.DataFrame(rows)
    cutter = Cutter(model, blocks, compensation, options)
    rows = []
    for i, (part, keep) in enumerate(zip(parts, kept)):
        rows.append(cutter.layer(part, keep, attention[i] if attention else None, kept_heads[i]))
        if progress:
            progress()
    return pd.DataFrame(rows)


def _row(part, keep):
    return {
        "layer": part.layer, "n_neurons": part.size, "n_kept": len(keep), "ridge": np.nan, "error": np.nan,
        "reconstruction": np.nan,
    }  # fmt: skip


class Cutter:
    """Carries the stream of the model as it is being cut and, for the residual-stream target, that of the dense model.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Dense at the start.
    blocks : list of Block
    compensation : {"bias", "ridge", "affine"}
    options : Options
    """

    def __init__(self, model, blocks, compensation, options):
        self.walk = Walk(model, blocks)
        self.compensation, self.options = compensation, options
        self.full = compensation in ("ridge", "affine")
        self.sequential = options.propagation == "sequential"
        self.dense = list(self.walk.hidden) if options.target == "stream" and self.sequential and self.full else None
        self.weighting = stream_weighting if options.token_weights == "stream" else None
        wants_held = self.full and (options.ridge == "auto" or options.reconstruct != "none")
        self.held = held_out_masks(self.walk.masks, options.held_out) if wants_held else None
        if self.held is not None and not any(bool(h.any()) for h in self.held):
            self.held = None
        self.touched = False

    def layer(self, part, keep, attention=None, heads=None):
        """Cut and refit one layer, and step behind it.

        Returns
        -------
        dict
            A row of the account.
        """
        row, walk = _row(part, keep), self.walk
        dense_after, dense_written = self._dense_step(part.layer, attention)
        cut_heads = heads is not None and len(heads) < attention.n_heads
        refits = attention is not None and (cut_heads or (self.options.refit_attention and self.touched and self.full))
        cuts = len(keep) < part.size
        following = []  # outputs of the dense layer, which one-shot hands on
        gathers_them = not self.sequential and cuts and not refits and self.options.reconstruct == "none"
        if not self.sequential and not gathers_them:
            following = [walk.run(part.layer, i) for i in range(len(walk.blocks))]
        if refits:
            self._attention(part, attention, heads if cut_heads else None, dense_written)
        if cuts:
            self._mlp(part, keep, dense_after, row, following if gathers_them else None)
            self.touched = True
        if self.sequential:
            walk.advance(part.layer)
        else:
            walk.restart(following)
        self.dense = dense_after
        return row

    def _dense_step(self, layer, attention):
        """What the dense layer makes of the dense stream: its output, and the stream between attention and MLP."""
        if self.dense is None:
            return None, None
        caught, after, written = {}, [], []
        sites = [output_site(attention.writer)] if attention is not None else []
        with torch.no_grad(), site_hooks(sites, lambda i, x: caught.update(x=x)):
            for i, hidden in enumerate(self.dense):
                after.append(self.walk.run(layer, i, hidden))
                if sites:
                    written.append(hidden + caught["x"].reshape(hidden.shape))
        return after, written

    # -- attention ----------------------------------------------------------------------------------------------
    def _attention(self, part, attention, heads, dense_written):
        """Cut heads and refit the output projection, or refit it alone, towards the dense stream behind attention."""
        walk, caught = self.walk, {}
        direct = dense_written and writes_to_stream(walk, part.layer, attention.writer, silenced=part.writer)

        def targets(i, output):
            return dense_written[i].float() - (
                walk.hidden[i].float() + caught["x"].reshape(walk.hidden[i].shape).float()
            )

        if heads is None and not direct:
            return
        with site_hooks([output_site(attention.writer)], lambda i, x: caught.update(x=x)):
            fit, held = gather(
                walk, part.layer, attention.writer, full=self.full, targets=targets if direct else None, held=self.held,
                weighting=self.weighting,
            )  # fmt: skip
        n_in = features(attention.writer)[0]
        if heads is None:
            keep = torch.arange(n_in)
        else:
            keep = channels(torch.as_tensor(np.asarray(heads), dtype=torch.long).sort().values, attention.head_dim)
        refit, gained = self._solve(attention.writer, fit, held, keep, {})
        if heads is not None:
            slice_attention(attention, heads, refit)
            self.touched = True
        elif gained:
            bias = refit.bias
            if bias is not None and attention.writer.bias is not None:
                bias = bias + attention.writer.bias.to(bias)
            set_linear(attention.writer, refit.weight, bias)

    # -- MLP ----------------------------------------------------------------------------------------------------
    def _mlp(self, part, keep, dense_after, row, outputs=None):
        direct = dense_after is not None and writes_to_stream(self.walk, part.layer, part.writer)

        def targets(i, output):
            return dense_after[i].float() - output.float()

        targets = targets if direct else None
        samples = None
        if self.full and self.options.reconstruct != "none":
            fit, held, samples = self._gather_samples(part, targets)
        else:
            fit, held = gather(
                self.walk, part.layer, part.writer, full=self.full, targets=targets, held=self.held,
                weighting=self.weighting, outputs=outputs,
            )  # fmt: skip
        refit, _ = self._solve(part.writer, fit, held, keep, row)
        slice_mlp(part, keep, refit)
        if samples is not None:
            readers = ("up",) if self.options.reconstruct == "up" else ("up", "gate")
            left = reconstruct(part, samples, readers=readers, n_steps=self.options.n_steps)
            row["reconstruction"] = left[-1]

    def _solve(self, linear, fit, held, keep, row):
        """Choose the ridge, refit, and say whether tokens that were held out gain by it.

        The ridge has a limit at which only the bias is refitted, and where even that does harm the weights stay as they
        are: no refit is taken that held-out tokens speak against.
        """
        weight, ridge = weight_of(linear).detach(), self.options.ridge
        if not self.full:
            return compensate(weight, fit, keep, self.compensation), True
        method, whole, fit = self.compensation, fit if held is None else fit.merge(held), frozen(fit)
        judge, error, trial = fit if held is None else frozen(held), None, None
        if ridge == "auto" and held is not None:
            ridge, errors = choose_ridge(weight, fit, judge, keep, method)
            error = min(e for e in errors if not math.isnan(e))
        elif ridge == "auto":
            ridge = default_ridge(fit.n, len(keep))
        if error is None:
            trial = compensate(weight, fit, keep, method, ridge)
            error = output_error(weight, judge, keep, trial)
        plain = output_error(weight, judge, keep, compensate(weight, judge, keep, "none"))
        row["ridge"], row["error"] = ridge, min(error, plain) / _power(weight, judge)
        if not error < plain:
            return compensate(weight, fit, keep, "none"), False
        if held is not None and whole.n >= ENOUGH * len(keep):
            del fit, judge
            return compensate(weight, whole, keep, method, ridge), True
        return (compensate(weight, fit, keep, method, ridge) if trial is None else trial), True

    def _gather_samples(self, part, targets):
        """Moments, and what reconstruction needs: the MLP's inputs, what it should write, and the weights of tokens."""
        walk, (n_in, n_out) = self.walk, features(part.writer)
        kind = {"n_targets": n_out if targets else 0, "device": walk.device}
        sides = [Moments(n_in, **kind), Moments(n_in, **kind)]
        caught, samples = {}, Samples([], [], [], [])
        sites = [input_site(part.readers[0].module), input_site(part.writer), output_site(part.writer)]
        with torch.no_grad(), site_hooks(sites, lambda i, x: caught.update({i: x})):
            for i, mask in enumerate(walk.masks):
                output = walk.run(part.layer, i)
                extra = targets(i, output) if targets else None
                weights = token_weights(walk, i, output, self.weighting)
                held = None if self.held is None else self.held[i]
                split_update(sides, caught[1], extra, weights, held)
                shape = (*mask.shape, -1)
                wanted = caught[2].reshape(shape).float()
                wanted = wanted if extra is None else wanted + extra.float()
                samples.add(
                    caught[0].reshape(shape), wanted, mask.float() if weights is None else weights.float(), mask, held
                )
        return sides[0], sides[1] if sides[1].n else None, samples


def _power(weight, moments):
    """Power of the wanted output, for errors as shares."""
    weight = weight.to(moments.device, torch.float64)
    power = ((weight @ moments.covariance) * weight).sum()
    if moments.n_targets:
        power = power + 2 * (weight * moments.cross_covariance).sum() + moments.target_variance.sum()
    return max(float(power), 1e-300)

"""The cut: each layer is sliced and refitted on the outputs of the layers cut before it."""

import math
from functools import partial

import numpy as np
import torch

from ..models.hooks import site_hooks
from ..models.linears import features, weight_of
from ..models.surgery import (
    attention_writers,
    channels,
    prunable_attentions,
    prunable_mlps,
    set_linear,
    slice_attention,
    slice_mlp,
)
from ..parallel import broadcast, rank, world_size
from ..text import pad
from .blockwise import ROWS, chunks_of, fit_blocks
from .calibration import held_out_masks
from .compensation import (
    COMPENSATIONS,
    Refit,
    choose_ridge,
    compensate,
    default_ridge,
    fitted_error,
    output_error,
    wanted_power,
)
from .equations import frozen
from .survey import TOKEN_WEIGHTS, gather, output_site, writes_to_stream
from .walk import Walk

# Tokens per unknown from which the last fit includes the held-out tokens. With fewer, they would look better after the
# first layers than any other text, and mislead the choices of all later layers. Before block-wise fits they stay out,
# because they judge the steps.
ENOUGH = 20
BRIEF = 64  # tokens on which it is tested what a layer adds to the stream


def cut(model, blocks, kept, compensation, options, kept_heads=None, progress=None, known=None, streams=None):
    """Slice and refit a model in place, layer by layer.

    ``kept`` and ``kept_heads`` list the neurons and query heads kept in each layer. ``known`` is the survey of the
    dense model with the same text and weights of tokens; where its means are all that is needed, the text is not read.
    ``streams`` is a dict in which several cuts of one model on the same blocks, and its survey, share the residual
    streams of the dense model.

    Returns
    -------
    pandas.DataFrame
        One row per layer: ``layer, n_neurons, n_kept, ridge, error`` (share of the power of the wanted output that is
        missed on held-out tokens, or on the fitted ones if none is held out), ``reconstruction`` (what block-wise
        fits leave of the error of the stream).
    """
    import pandas as pd

    parts = prunable_mlps(model)
    kept = [torch.as_tensor(np.asarray(k), dtype=torch.long) for k in kept]
    attention = [None] * len(parts)
    if kept_heads is not None:
        attention = prunable_attentions(model)
    elif options.refit_attention:
        attention = attention_writers(model)
    needs = COMPENSATIONS[compensation].needs
    if not needs and not options.block_steps:
        one = _slice
    elif "covariance" not in needs and known and options.propagation == "one-shot" and attention[0] is None:
        of_layer = {part.layer: layer for part, layer in zip(parts, known)}
        one = partial(_slice, compensation=compensation, known=of_layer)
    else:
        one = Cutter(model, blocks, compensation, options, streams).layer
    rows = []
    for part, keep, heads_part, heads in zip(parts, kept, attention, kept_heads or [None] * len(parts)):
        rows.append(one(part, keep, heads_part, heads))
        if progress:
            progress()
    return pd.DataFrame(rows)


def follows_dense(compensation, options):
    """Whether the residual streams of the dense model are a target."""
    refits = "covariance" in COMPENSATIONS[compensation].needs or options.block_steps > 0
    return refits and options.target == "stream" and options.propagation == "sequential"


def _slice(part, keep, attention=None, heads=None, compensation="none", known=None):
    """Slice one layer; refit the writer at most to the known means of its dense inputs."""
    if heads is not None and len(heads) < attention.n_heads:
        slice_attention(attention, heads)
    if len(keep) < part.size:
        of_dense = None if known is None else known[part.layer]
        refit = None if known is None else compensate(weight_of(part.writer).detach(), of_dense, keep, compensation)
        slice_mlp(part, keep, refit)
    return account(part, len(keep))


def account(part, n_kept, error=np.nan):
    """Make the row of the table of layers for a layer without refits."""
    return {
        "layer": part.layer, "n_neurons": part.size, "n_kept": n_kept, "ridge": np.nan, "error": error,
        "reconstruction": np.nan,
    }  # fmt: skip


class Cutter:
    """The residual streams of the model that is being cut and, if it is the target, of the dense model."""

    def __init__(self, model, blocks, compensation, options, streams=None):
        self.walk, self.streams = Walk(model, blocks), streams
        self.brief = Walk(model, [pad([blocks[0].windows[0].first(BRIEF)])])  # how layers are built can be seen there
        self.compensation, self.options = compensation, options
        self.full = "covariance" in COMPENSATIONS[compensation].needs
        self.sequential = options.propagation == "sequential"
        self.fits = options.block_steps > 0
        self.dense = list(self.walk.hidden) if follows_dense(compensation, options) else None
        self.entered = []  # inputs of the blocks that are fitted together
        self.ahead = {}  # streams of the dense model after this layer and later ones, for block-wise fits
        self.weighting = TOKEN_WEIGHTS[options.token_weights]
        wants_held = self.fits or (self.full and options.ridge == "auto")
        masks = [block.mask.to(self.walk.device) for block in blocks]
        held = held_out_masks(masks, options.held_out) if wants_held else []
        self.held = [held[i] for i in self.walk.numbers] if any(bool(h.any()) for h in held) else None
        self.chunks = chunks_of(masks, held, ROWS if self.walk.has_rows() else None) if self.fits else []
        self.touched = False

    def layer(self, part, keep, attention=None, heads=None):
        """Cut and refit one layer, advance past it, and return its row of the table of layers."""
        row, walk = account(part, len(keep)), self.walk
        dense_after, dense_written = self._dense_step(part.layer, attention)
        cut_heads = heads is not None and len(heads) < attention.n_heads
        refits = attention is not None and (cut_heads or (self.options.refit_attention and self.touched and self.full))
        cuts = len(keep) < part.size
        following = []  # outputs of the dense layer: one-shot passes them to the next layer
        gathers_them = not self.sequential and cuts and not refits
        if not self.sequential and not gathers_them:
            following = [walk.run(part.layer, i) for i in range(len(walk.blocks))]
        if refits:
            self._attention(part, attention, heads if cut_heads else None, dense_written if self.full else None)
        if cuts:
            self._mlp(part, keep, dense_after if self.full else None, row, following if gathers_them else None)
            self.touched = True
        if self.fits:
            row["reconstruction"] = self._fit(part.layer, dense_after)
        if self.sequential:
            walk.advance(part.layer)
        else:
            walk.restart(following)
        self.dense = dense_after
        return row

    def _dense_step(self, layer, attention):
        """Outputs of the dense layer, and the dense stream between attention and MLP, block by block."""
        if self.dense is None:
            return None, None
        sites = [output_site(attention.writer)] if attention is not None else []
        shared = None if sites else self.streams  # which holds nothing between attention and MLP
        if shared and layer in shared:
            return shared[layer], []
        caught, after, written = {}, [], []
        with torch.no_grad(), site_hooks(sites, lambda i, x: caught.update(x=x)):
            for i, hidden in enumerate(self.dense):
                after.append(self.walk.run(layer, i, hidden))
                if sites:
                    written.append(hidden + caught["x"].reshape(hidden.shape))
        if shared is not None:
            shared[layer] = after
        return after, written

    def _fit(self, layer, dense_after):
        """Fit the whole block, if it or one before it was cut; what is left of the error."""
        walk, ahead = self.walk, self.ahead
        ahead.pop(layer - 1, None)
        ahead[layer] = dense_after
        last = min(layer + self.options.lookahead, len(walk.layers) - 1)
        for i in range(layer + 1, last + 1):
            if i not in ahead:
                ahead[i] = [walk.run(i, block, hidden) for block, hidden in enumerate(ahead[i - 1])]
        self.entered = [*self.entered, list(walk.hidden)][-self.options.block_span :]
        if not self.touched:
            return np.nan
        weights = [
            (mask if self.weighting is None else self.weighting(wanted) * mask).float()
            for mask, wanted in zip(walk.masks, ahead[last])
        ]
        layers, entered = range(layer - len(self.entered) + 1, layer + 1), self.entered
        walk.restart(entered[0])
        n_steps = self.options.block_steps
        left = fit_blocks(walk, layers, last, ahead[last], weights, self.held, self.chunks, n_steps)
        for place, i in enumerate(layers[:-1], 1):
            walk.advance(i)
            entered[place] = list(walk.hidden)
        return left

    # -- attention ----------------------------------------------------------------------------------------------
    def _attention(self, part, attention, heads, dense_written):
        """Cut heads and refit the output projection, or only refit it, towards the dense stream after attention."""
        walk, caught = self.walk, {}
        direct = dense_written is not None and writes_to_stream(
            self.brief, part.layer, attention.writer, silenced=part.writer
        )

        def targets(i, output):
            return dense_written[i].float() - (
                walk.hidden[i].float() + caught["x"].reshape(walk.hidden[i].shape).float()
            )

        if heads is None and not direct:
            return
        with site_hooks([output_site(attention.writer)], lambda i, x: caught.update(x=x)):
            fit, held = gather(
                walk, part.layer, attention.writer, full=self.full, targets=targets if direct else None, held=self.held,
                weighting=self.weighting, owner=_owner(part),
            )  # fmt: skip
        n_in = features(attention.writer)[0]
        if heads is None:
            keep = torch.arange(n_in)
        else:
            keep = channels(torch.as_tensor(np.asarray(heads), dtype=torch.long).sort().values, attention.head_dim)
        refit, gained = self._refit(_owner(part), attention.writer, fit, held, keep, {})
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
        direct = dense_after is not None and writes_to_stream(self.brief, part.layer, part.writer)

        def targets(i, output):
            return dense_after[i].float() - output.float()

        targets = targets if direct else None
        fit, held = gather(
            self.walk, part.layer, part.writer, full=self.full, targets=targets, held=self.held,
            weighting=self.weighting, outputs=outputs, owner=_owner(part),
        )  # fmt: skip
        refit, _ = self._refit(_owner(part), part.writer, fit, held, keep, row)
        slice_mlp(part, keep, refit)

    def _refit(self, owner, linear, fit, held, keep, row):
        """Refit in the process that owns the moments; see :meth:`_solve`."""
        if world_size() == 1:
            return self._solve(linear, fit, held, keep, row)
        weight, device = weight_of(linear), self.walk.device
        new = torch.empty(len(weight), len(keep), dtype=torch.float64, device=device)
        bias, facts = torch.zeros(len(weight), dtype=torch.float64, device=device), torch.zeros(4, dtype=torch.float64)
        if owner == rank():
            refit, gained = self._solve(linear, fit, held, keep, row)
            new = refit.weight.to(new).contiguous()
            bias = bias if refit.bias is None else refit.bias.to(bias)
            facts = [gained, refit.bias is not None, row.get("ridge", math.nan), row.get("error", math.nan)]
            facts = torch.tensor([math.nan if fact is None else float(fact) for fact in facts], dtype=torch.float64)
        gained, has_bias, row["ridge"], row["error"] = broadcast(facts, owner).tolist()
        new, bias = broadcast(new, owner), broadcast(bias, owner)
        return Refit(new, bias if has_bias else None), bool(gained)

    def _solve(self, linear, fit, held, keep, row):
        """Choose the ridge and refit; returns the refit and whether it lowers the held-out error.

        At the largest ridge only the bias is refitted. If even that raises the held-out error, the weights are kept.
        """
        weight, ridge = weight_of(linear).detach(), self.options.ridge
        if not self.full:
            return compensate(weight, fit, keep, self.compensation), True
        method, whole, fit = self.compensation, fit if held is None else fit.merge(held), frozen(fit)
        judge, error, trial = fit if held is None else frozen(held), None, None
        if ridge == "auto" and held is not None and COMPENSATIONS[method].ridge:
            ridge, errors = choose_ridge(weight, fit, judge, keep, method)
            error = min(e for e in errors if not math.isnan(e))
        elif ridge == "auto":
            ridge = default_ridge(fit.n, len(keep))
        if error is None:
            trial = compensate(weight, fit, keep, method, ridge)
            error = (fitted_error if held is None else output_error)(weight, judge, keep, trial)
        plain = output_error(weight, judge, keep, compensate(weight, judge, keep, "none"))
        row["ridge"], row["error"] = ridge, min(error, plain) / wanted_power(weight, judge)
        if not error < plain:
            return compensate(weight, fit, keep, "none"), False
        if held is not None and whole.n >= ENOUGH * len(keep) and not self.fits:
            del fit, judge
            return compensate(weight, whole, keep, method, ridge), True
        return (compensate(weight, fit, keep, method, ridge) if trial is None else trial), True


def _owner(part):
    """Process that refits a layer."""
    return part.layer % world_size()

"""Measured allocations: the divergence of a cut model from the dense one, on calibration windows.

The Kullback-Leibler divergence to the dense model grows smoothly from 0 with every neuron removed; the difference of
two losses on the same tokens is many times noisier, and needs labels.
"""

from dataclasses import dataclass

import numpy as np
import torch

from ..models.anatomy import anatomy_of
from ..models.inputs import input_device
from ..models.linears import weight_of
from ..models.parts import modules_of
from ..models.surgery import count_features, set_linear
from .allocation import ALLOCATIONS, fill_by_curves, round_counts, smooth_curves, uniform
from .compensation import compensate, default_ridge, frozen
from .walk import Walk, gather

__all__ = [
    "LEVELS",
    "Curves",
    "Probe",
    "Supernet",
    "measure_curves",
    "run_rest",
    "search_counts",
]

_KEPT_VALUES = 1 << 28  # 1 GiB in float32
LEVELS = (0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95)


class Probe:
    """Divergence of a changed model from the dense one on given windows; the model is dense when the probe is made."""

    @torch.no_grad()
    def __init__(self, model, blocks):
        self.model, self.blocks = model, blocks
        self.device = input_device(model)
        self._dense_head = model.get_output_embeddings()
        self._last = [self._final(block) for block in blocks]
        self._wanted = {}  # predictions of the dense model for each window, kept if they are small enough
        self._keeps = self.n_tokens * self._dense_head.weight.shape[0] <= _KEPT_VALUES

    def _final(self, block):
        """Input of the output embedding."""
        output = self.model.base_model(**block.inputs(self.device), use_cache=False)
        return output.last_hidden_state

    def _log_probabilities(self, head, hidden):
        logits = head(hidden).float()
        scale = getattr(self.model.config, "logit_scale", None) or 1.0
        return torch.log_softmax(logits * scale, dim=-1)

    def divergence(self, finals=None):
        """Mean divergence of the current model, nats per token; ``finals`` are final hidden states already known."""
        return self.windows(finals).sum() / self.n_tokens

    @property
    def n_tokens(self):
        """Tokens of all windows."""
        return sum(block.n_tokens for block in self.blocks)

    @torch.no_grad()
    def windows(self, finals=None):
        """Divergence of every window, summed over its tokens, shape (n_windows,)."""
        values = np.zeros(sum(len(b.ids) for b in self.blocks))
        finals = (self._final(b) for b in self.blocks) if finals is None else finals
        done = 0
        for block, dense, hidden in zip(self.blocks, self._last, finals):
            mask = block.mask.to(self.device)
            for row in range(len(mask)):  # one window at a time: a vocabulary is wide
                keep = mask[row]
                wanted = self._wanted.get(done)
                if wanted is None:
                    wanted = self._log_probabilities(self._dense_head, dense[row][keep])
                    if self._keeps:
                        self._wanted[done] = wanted
                given = self._log_probabilities(self.model.get_output_embeddings(), hidden[row][keep])
                values[done] = float((wanted.exp() * (wanted - given)).sum(dtype=torch.float64))
                done += 1
        return values


class Supernet:
    """All layers cut and refitted at several widths, which can be swapped into the model.

    ``orders`` are the neurons of each layer, best first; widths are multiples of ``1 / n_steps`` of a layer.
    """

    def __init__(self, model, parts, orders, n_steps=20):
        self.model, self.parts, self.orders, self.n_steps = model, parts, orders, int(n_steps)
        self.widths = [sorted({max(1, round(p.size * k / n_steps)) for k in range(1, n_steps)}) for p in parts]
        self.refits = [{} for _ in parts]
        self._dense = [self._weights(p) for p in parts]

    def width_of(self, state):
        """Convert steps per layer to widths."""
        return [max(1, round(p.size * int(k) / self.n_steps)) for p, k in zip(self.parts, state)]

    @staticmethod
    def _weights(part):
        return [(linear, linear.weight, linear.bias) for linear in part.linears]

    def fit(self, i, moments, ridge):
        """Refit layer ``i`` at all widths."""
        part = self.parts[i]
        weight, moments = weight_of(part.writer).detach(), frozen(moments)
        for width in self.widths[i]:
            kept = self.orders[i][:width].sort().values
            refit = compensate(weight, moments, kept, "affine", ridge)
            self.refits[i][width] = (kept, refit.weight.to(weight.dtype), refit.bias.to(weight.dtype))

    @torch.no_grad()
    def put(self, i, width):
        """Give layer ``i`` the nearest fitted width, or its own if ``width`` is above all of them."""
        part = self.parts[i]
        self.take(i)
        if width >= (part.size + self.widths[i][-1]) / 2:
            return
        kept, weight, bias = self.refits[i][min(self.widths[i], key=lambda w: abs(w - width))]
        for module, readers in modules_of(part.readers):
            rows = torch.cat([reader.start + kept for reader in readers])
            old = weight_of(module)
            set_linear(module, old[rows], None if module.bias is None else module.bias[rows])
        old_bias = part.writer.bias
        set_linear(part.writer, weight, bias if old_bias is None else bias + old_bias)

    def take(self, i):
        """Make layer ``i`` dense again."""
        for module, weight, bias in self._dense[i]:
            if module.weight is weight:
                continue
            set_linear(module, weight_of(module))
            module.weight, module.bias = weight, bias
            count_features(module)

    def put_all(self, widths):
        """Give every layer a width."""
        for i, width in enumerate(widths):
            self.put(i, width)

    def take_all(self):
        """Make the whole model dense again."""
        for i in range(len(self.parts)):
            self.take(i)


@dataclass
class Curves:
    """Divergence when only one layer is cut, with what is needed to measure allocations of all layers.

    ``losses`` has shape (n_layers, n_levels), nats per token.
    """

    losses: np.ndarray
    supernet: Supernet
    probe: Probe

    @property
    def sizes(self):
        """Neurons of each layer."""
        return [part.size for part in self.supernet.parts]


@torch.no_grad()
def measure_curves(
    model, parts, orders, fit_blocks, probe_blocks, *, levels=LEVELS, n_steps=20, weighting=None, progress=None
):
    """Measure the divergence when only one layer is cut and refitted, for every share in ``levels``.

    Refits read ``fit_blocks``, divergences ``probe_blocks``. The model is dense before and after.
    """
    probe = Probe(model, probe_blocks)
    supernet = Supernet(model, parts, orders, n_steps)
    fit_walk, probe_walk = Walk(model, fit_blocks), Walk(model, probe_blocks)
    losses = np.zeros((len(parts), len(levels)))
    norm = anatomy_of(model).norm
    for i, part in enumerate(parts):
        moments = gather(fit_walk, part.layer, part.writer, weighting=weighting)[0]
        supernet.fit(i, moments, default_ridge(moments.n, part.size))
        for j, level in enumerate(levels):
            supernet.put(i, round(part.size * (1 - level)))
            losses[i, j] = probe.divergence(run_rest(probe_walk, part.layer, norm))
            supernet.take(i)
        fit_walk.advance(part.layer)
        probe_walk.advance(part.layer)
        if progress:
            progress()
    return Curves(losses, supernet, probe)


def run_rest(walk, first, norm):
    """Final hidden states from a layer of the walk to the end of the model, block by block."""
    for block in range(len(walk.blocks)):
        hidden = walk.hidden[block]
        for layer in range(first, len(walk.layers)):
            hidden = walk.run(layer, block, hidden)
        yield norm(hidden)


def search_counts(supernet, probe, starts, n_keep, *, floors, n_evaluations=200, seed=0, progress=None):
    """Improve an allocation: move neurons between layers while the divergence of the whole model falls.

    The model is assembled from layers that were refitted one by one; nothing is fitted during the search. Widths are
    multiples of the supernet's steps until the final rounding. The best of ``starts`` is improved. Returns the counts,
    their divergence, and the best divergence after each evaluation.
    """
    rng = np.random.default_rng(seed)
    sizes = np.array([p.size for p in supernet.parts])
    steps = sizes / supernet.n_steps
    lowest = np.maximum(np.ceil(np.asarray(floors) / steps - 1e-9), 1).astype(int)

    def measure(state):
        supernet.put_all(supernet.width_of(state))
        try:
            values = probe.windows()
        finally:
            supernet.take_all()
        if progress:
            progress()
        return values

    states = [np.clip(np.rint(np.asarray(s) / steps), lowest, supernet.n_steps).astype(int) for s in starts]
    states = [_fit_budget(s, lowest, steps, n_keep, supernet.n_steps) for s in states]
    windows = [measure(state) for state in states]
    best = int(np.argmin([w.sum() for w in windows]))
    state, window = states[best], windows[best]
    history = [min(w.sum() for w in windows[: i + 1]) / probe.n_tokens for i in range(len(windows))]
    tried, paid = np.ones(len(sizes)), np.ones(len(sizes))
    while len(history) < n_evaluations:
        trial = _move(state, lowest, supernet.n_steps, steps, paid / tried, rng)
        touched = trial != state
        new = measure(trial)
        tried[touched] += 1
        if new.sum() < window.sum():
            state, window = trial, new
            paid[touched] += 2
        history.append(window.sum() / probe.n_tokens)
    value = window.sum() / probe.n_tokens
    counts = round_counts(state * steps, sizes, n_keep, floors=floors)
    return counts, value, history


@ALLOCATIONS.register("curves", needs=("curves", "extremes"), heads="losses")
def by_curves(curves, extremes, n_keep, *, floors=1, round_to=1):
    """Remove neurons at equal marginal loss along the measured curves of every layer."""
    smooth = smooth_curves(curves.losses, LEVELS)
    return fill_by_curves(
        smooth, [0, *LEVELS], curves.sizes, n_keep, extremes=extremes, floors=floors, round_to=round_to
    )


@ALLOCATIONS.register(
    "search", needs=("curves", "extremes", "n_evaluations", "random_state", "progress"), random=True, heads="losses"
)
def by_search(curves, extremes, n_evaluations, random_state, progress, n_keep, *, floors=1, round_to=1):
    """Move neurons between layers while the divergence of the whole model falls."""
    starts = [uniform(curves.sizes, n_keep, floors=floors)]
    starts += [by_curves(curves, e, n_keep, floors=floors) for e in sorted({0.0, 1.0, extremes})]
    counts, _, _ = search_counts(
        curves.supernet, curves.probe, starts, n_keep, floors=floors, n_evaluations=n_evaluations, seed=random_state,
        progress=progress("search", n_evaluations),
    )  # fmt: skip
    return round_counts(counts, curves.sizes, n_keep, floors=floors, round_to=round_to)


def _fit_budget(state, lowest, prices, budget, highest):
    """Shift single steps until the total price is as close to the budget as possible."""
    state = state.copy()
    for _ in range(10 * len(state) * highest):
        missing = budget - prices @ state
        if abs(missing) <= prices.max() / 2:
            break
        sign = 1 if missing > 0 else -1
        able = np.flatnonzero(state < highest) if sign > 0 else np.flatnonzero(state > lowest)
        if not len(able):
            break
        state[able[np.argmin(sign * state[able])]] += sign
    return state


def _move(state, lowest, highest, prices, chances, rng):
    """Take one to three steps of width from one layer and give their price to another."""
    for _ in range(200):
        give, take = rng.choice(len(state), size=2, replace=False, p=chances / chances.sum())
        size = int(rng.integers(1, 4))
        trial = state.copy()
        trial[take] -= size
        trial[give] += max(1, round(size * prices[take] / prices[give]))
        if trial[take] >= lowest[take] and trial[give] <= highest:
            return trial
    return state

"""Measured allocations: the divergence of a cut model from the dense one, on calibration windows.

The Kullback-Leibler divergence to the dense model grows smoothly from 0 with every neuron removed; the difference of
two losses on the same tokens is many times noisier, and needs labels.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from ..evaluation.reader import find_rescaling
from ..exceptions import UnsupportedArchitectureError
from ..models.anatomy import anatomy_of
from ..models.inputs import input_device
from ..models.linears import weight_of
from ..models.parts import modules_of
from ..models.surgery import count_features, set_linear
from ..parallel import all_reduce, broadcast, rank, share, world_size
from .allocation import ALLOCATIONS, by_power, fill_by_curves, round_counts, smooth_curves, uniform
from .compensation import compensate, default_ridge, frozen
from .walk import Walk, gather

__all__ = [
    "LEVELS",
    "Curves",
    "Probe",
    "Supernet",
    "clearly_lowest",
    "measure_counts",
    "measure_curves",
    "run_rest",
    "search_counts",
]

_KEPT_VALUES = 1 << 28  # 1 GiB in float32
_LEADING = 32  # words of each token that are looked at one by one
_SAMPLED = 1024  # words by which the mass of all others is estimated
LEVELS = (0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95)


@dataclass(frozen=True)
class Words:
    """The words by which the predictions for one window are compared; None stands for the whole vocabulary.

    ``leading`` are looked at one by one. ``sampled`` are drawn from all others, which count as one word: the sum over
    the sample, times ``factor``, estimates the sum over all of them.
    """

    leading: torch.Tensor
    sampled: torch.Tensor
    factor: float

    @classmethod
    def of(cls, log_probabilities, n_leading=_LEADING, n_sampled=_SAMPLED, seed=0):
        """Choose the ``n_leading`` most probable words of each token, or None where they are half of the vocabulary."""
        n_words = log_probabilities.shape[-1]
        if n_leading + n_sampled >= n_words // 2:
            return None
        leads = torch.zeros(n_words, dtype=torch.bool, device=log_probabilities.device)
        leads[log_probabilities.topk(n_leading, dim=-1).indices.flatten()] = True
        leading, others = leads.nonzero()[:, 0], (~leads).nonzero()[:, 0]
        if len(leading) + n_sampled >= n_words // 2:
            return None
        draw = np.random.default_rng(seed).choice(len(others), n_sampled, replace=False)
        return cls(leading, others[torch.as_tensor(draw, device=others.device)], len(others) / n_sampled)

    @property
    def all(self):
        """Leading words, then sampled ones."""
        return torch.cat([self.leading, self.sampled])

    def log_probabilities(self, logits):
        """Log probabilities of the leading words and of all others together, from the logits of :attr:`all`."""
        leading, sampled = logits.split([len(self.leading), len(self.sampled)], dim=-1)
        others = sampled.logsumexp(-1, keepdim=True) + math.log(self.factor)
        return torch.log_softmax(torch.cat([leading, others], dim=-1), dim=-1)


class Probe:
    """Divergence of a changed model from the dense one on given windows; the model is dense when the probe is made.

    Predictions are compared word by word for the words that lead anywhere in a window, with all other words as one.
    That is the divergence of a coarser prediction: never more than that of whole predictions, and the same in the
    limit. With ``n_leading=None`` the whole vocabulary is compared. Several processes share the blocks, as a
    :class:`~llmbrain.pruning.walk.Walk` does; divergences are those of all windows.
    """

    @torch.no_grad()
    def __init__(self, model, blocks, n_leading=_LEADING):
        self.model, self.blocks = model, blocks
        self.device = input_device(model)
        self._own = share(range(len(blocks)))
        self._dense_head = model.get_output_embeddings()
        self._rescale = self._find_rescaling()
        self._last = [self._final(blocks[i]) for i in self._own]
        self._words = [None] * sum(len(blocks[i].ids) for i in self._own)
        if n_leading is not None:
            whole = (self.predict(self._dense_head, hidden, None) for hidden in self._hidden(self._last))
            self._words = [Words.of(predictions, n_leading) for predictions in whole]
        self._wanted = {}  # predictions of the dense model for each window, kept if they are small enough
        n_words = self._dense_head.weight.shape[0]
        widths = [n_words if words is None else len(words.all) for words in self._words]
        lengths = [len(h) for h in self._hidden(self._last)]
        self._keeps = sum(n * width for n, width in zip(lengths, widths)) <= _KEPT_VALUES

    def _final(self, block):
        """Input of the output embedding."""
        output = self.model.base_model(**block.inputs(self.device), use_cache=False)
        return output.last_hidden_state

    def _hidden(self, finals):
        """Final hidden states of every window of this process in turn, without padding."""
        for i, hidden in zip(self._own, finals):
            yield from (rows[keep] for rows, keep in zip(hidden, self.blocks[i].mask.to(self.device)))

    def _find_rescaling(self):
        inputs = {name: value[:1, :8] for name, value in self.blocks[0].inputs(self.device).items()}
        made = self._dense_head(self.model.base_model(**inputs, use_cache=False).last_hidden_state[:, -1])
        rescale = find_rescaling(self.model, made, self.model(**inputs, use_cache=False).logits[:, -1])
        if rescale is None:
            raise UnsupportedArchitectureError(
                f"The logits of {type(self.model).__name__} are not those of its output embedding, so divergences "
                "cannot be measured from hidden states. Use an allocation other than 'curves' and 'search'."
            )
        return rescale

    def predict(self, head, hidden, words):
        """Log probabilities of one window from its final hidden states, shape (n_tokens, n_words)."""
        if words is None:
            return torch.log_softmax(self._rescale(head(hidden)).float(), dim=-1)
        bias = None if head.bias is None else head.bias[words.all]
        logits = torch.nn.functional.linear(hidden, head.weight[words.all], bias)
        return words.log_probabilities(self._rescale(logits).float())

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
        finals = (self._final(self.blocks[i]) for i in self._own) if finals is None else finals
        values, head = [], self.model.get_output_embeddings()
        pairs = zip(self._hidden(self._last), self._hidden(finals), self._words)
        for number, (dense, hidden, words) in enumerate(pairs):  # one window at a time: a vocabulary is wide
            wanted = self._wanted.get(number)
            if wanted is None:
                wanted = self.predict(self._dense_head, dense, words)
                if self._keeps:
                    self._wanted[number] = wanted
            given = self.predict(head, hidden, words)
            values.append((wanted.exp() * (wanted - given)).sum(dtype=torch.float64))
        return self._in_order(torch.stack(values).cpu() if values else torch.zeros(0, dtype=torch.float64)).numpy()

    def _in_order(self, values):
        """Values of the windows of all processes, from those of this one."""
        if world_size() == 1:
            return values
        ends = np.cumsum([0] + [len(block.ids) for block in self.blocks])
        table = torch.zeros(int(ends[-1]), dtype=torch.float64)
        if len(values):
            table[np.concatenate([np.arange(ends[i], ends[i + 1]) for i in self._own])] = values
        return all_reduce(table)


class Supernet:
    """All layers cut and refitted at several widths, which can be swapped into the model.

    ``orders`` are the neurons of each layer, best first. ``widths`` lists the widths of each layer; by default the
    multiples of ``1 / n_steps`` of the layer.
    """

    def __init__(self, model, parts, orders, n_steps=20, widths=None):
        self.model, self.parts, self.orders, self.n_steps = model, parts, orders, int(n_steps)
        self.widths = widths or [
            sorted({max(1, round(p.size * k / n_steps)) for k in range(1, n_steps)}) for p in parts
        ]
        self.refits = [{} for _ in parts]
        self._dense = [self._weights(p) for p in parts]

    def width_of(self, state):
        """Convert steps per layer to widths."""
        return [max(1, round(p.size * int(k) / self.n_steps)) for p, k in zip(self.parts, state)]

    @staticmethod
    def _weights(part):
        return [(linear, linear.weight, linear.bias) for linear in part.linears]

    def fit(self, i, moments, ridge):
        """Refit layer ``i`` at all widths; several processes share the widths."""
        part = self.parts[i]
        weight, moments = weight_of(part.writer).detach(), frozen(moments)
        for place, width in enumerate(self.widths[i]):
            kept = self.orders[i][:width].sort().values
            if place % world_size() == rank():
                refit = compensate(weight, moments, kept, "affine", ridge)
                new = refit.weight.to(weight.dtype), refit.bias.to(weight.dtype)
            else:
                new = weight.new_empty(len(weight), width), weight.new_empty(len(weight))
            self.refits[i][width] = (kept, *new)
        for place, width in enumerate(self.widths[i]):
            for tensor in self.refits[i][width][1:]:
                broadcast(tensor, place % world_size())

    @torch.no_grad()
    def put(self, i, width):
        """Give layer ``i`` the nearest fitted width, or its own if ``width`` is above all of them."""
        part = self.parts[i]
        self.take(i)
        if not self.widths[i] or width >= (part.size + self.widths[i][-1]) / 2:
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


@torch.no_grad()
def measure_counts(model, parts, orders, candidates, fit_blocks, probe_blocks, *, weighting=None, progress=None):
    """Measure the divergence of whole allocations, each assembled from layers that are refitted one by one.

    ``candidates`` are counts of all layers. Returns their divergences in the windows of ``probe_blocks``, in nats
    summed over tokens, shape (n_candidates, n_windows). The model is dense before and after.
    """
    probe = Probe(model, probe_blocks)
    widths = [sorted({int(counts[i]) for counts in candidates} - {part.size}) for i, part in enumerate(parts)]
    supernet, walk = Supernet(model, parts, orders, widths=widths), Walk(model, fit_blocks)
    for i, part in enumerate(parts):
        outputs = []
        moments = gather(walk, part.layer, part.writer, weighting=weighting, outputs=outputs)[0]
        supernet.fit(i, moments, default_ridge(moments.n, part.size))
        walk.restart(outputs)
        if progress:
            progress()
    assembly = Assembly(supernet, probe)
    try:
        return np.stack([assembly.measure([int(n) for n in counts])[0] for counts in candidates])
    finally:
        supernet.take_all()


def run_rest(walk, first, norm):
    """Final hidden states from a layer of the walk to the end of the model, block by block."""
    for block in range(len(walk.blocks)):
        hidden = walk.hidden[block]
        for layer in range(first, len(walk.layers)):
            hidden = walk.run(layer, block, hidden)
        yield norm(hidden)


class Assembly:
    """A model assembled from layers of a supernet, with the residual stream before every layer.

    A trial changes some layers and runs the model from the first of them on.
    """

    def __init__(self, supernet, probe):
        self.supernet, self.probe = supernet, probe
        self.layers = [part.layer for part in supernet.parts]
        self.walk = Walk(probe.model, probe.blocks)
        self.norm = anatomy_of(probe.model).norm
        self.widths = [None] * len(supernet.parts)
        self.streams = [self.walk.hidden]  # before every layer, for every block

    @torch.no_grad()
    def measure(self, widths):
        """Divergence of every window with these widths, and the streams to pass to :meth:`accept`."""
        changed = [i for i, (old, new) in enumerate(zip(self.widths, widths)) if old != new]
        for i in changed:
            self.supernet.put(i, widths[i])
        try:
            first = min([self.layers[i] for i in changed], default=len(self.walk.layers))
            first = min(first, len(self.streams) - 1)
            streams = []
            hidden = self.streams[first]
            for layer in range(first, len(self.walk.layers)):
                hidden = [self.walk.run(layer, block, h) for block, h in enumerate(hidden)]
                streams.append(hidden)
            finals = (self.norm(h) for h in hidden)
            return self.probe.windows(finals), (widths, first, streams)
        finally:
            for i in changed:
                if self.widths[i] is None:
                    self.supernet.take(i)
                else:
                    self.supernet.put(i, self.widths[i])

    def accept(self, trial):
        """Go on from a trial."""
        widths, first, streams = trial
        for i, (old, new) in enumerate(zip(self.widths, widths)):
            if old != new:
                self.supernet.put(i, new)
        self.widths = widths
        self.streams = self.streams[: first + 1] + streams


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
    states = [np.clip(np.rint(np.asarray(s) / steps), lowest, supernet.n_steps).astype(int) for s in starts]
    states = [_fit_budget(s, lowest, steps, n_keep, supernet.n_steps) for s in states]
    state, lowest_sum, history = None, np.inf, []
    tried, paid = np.ones(len(sizes)), np.ones(len(sizes))
    assembly = Assembly(supernet, probe)
    try:
        while len(history) < max(n_evaluations, len(states)):
            start = len(history) < len(states)
            trial = states[len(history)] if start else _move(state, lowest, supernet.n_steps, steps, paid / tried, rng)
            windows, streams = assembly.measure(supernet.width_of(trial))
            better = windows.sum() < lowest_sum
            if not start:
                touched = trial != state
                tried[touched] += 1
                paid[touched] += 2 * better
            if better:
                state, lowest_sum = trial, windows.sum()
                assembly.accept(streams)
            history.append(lowest_sum / probe.n_tokens)
            if progress:
                progress()
    finally:
        supernet.take_all()
    counts = round_counts(state * steps, sizes, n_keep, floors=floors)
    return counts, history[-1], history


def _curve_probes(options, n_layers):
    """A measurement of one cut layer runs the model from this layer on, on average half of it."""
    return len(LEVELS) * n_layers / 2


def _search_probes(options, n_layers):
    return _curve_probes(options, n_layers) + options.n_evaluations / 2


@ALLOCATIONS.register("curves", needs=("curves", "extremes"), probes=_curve_probes, heads="losses")
def by_curves(curves, extremes, n_keep, *, floors=1, round_to=1):
    """Remove neurons at equal marginal loss along the measured curves of every layer."""
    smooth = smooth_curves(curves.losses, LEVELS)
    return fill_by_curves(
        smooth, [0, *LEVELS], curves.sizes, n_keep, extremes=extremes, floors=floors, round_to=round_to
    )


@ALLOCATIONS.register(
    "trial", needs=("scores", "stream_powers", "sizes", "measure_counts"), score="flap",
    probes=lambda options, n_layers: 4, heads="share",
)  # fmt: skip
def by_trial(scores, stream_powers, sizes, measure_counts, n_keep, *, floors=1, round_to=1):
    """Take shares by power, unless gentler or equal shares clearly diverge less on held-out calibration windows."""
    budget = {"floors": floors, "round_to": round_to}
    candidates = [by_power(scores, stream_powers, e, n_keep, **budget) for e in (1.0, 0.5)]
    candidates.append(uniform(sizes, n_keep, **budget))
    return candidates[clearly_lowest(measure_counts(candidates))]


def clearly_lowest(divergences, level=0.05):
    """Row with the lowest mean, or 0 if a paired one-sided t-test over windows does not set it apart from row 0.

    Examples
    --------
    >>> clearly_lowest([[2.0, 3.0, 4.0], [1.1, 2.0, 3.1]]), clearly_lowest([[2.0, 3.0, 4.0], [0.1, 4.0, 4.1]])
    (1, 0)
    """
    from scipy.stats import ttest_rel

    rows = np.asarray(divergences, dtype=np.float64)
    lowest = int(rows.mean(1).argmin())
    different = lowest and np.ptp(rows[lowest] - rows[0]) > 0
    return lowest if different and ttest_rel(rows[lowest], rows[0], alternative="less").pvalue < level else 0


@ALLOCATIONS.register(
    "search", needs=("curves", "extremes", "n_evaluations", "random_state", "progress"), random=True,
    probes=_search_probes, heads="losses",
)  # fmt: skip
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

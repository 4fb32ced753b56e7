"""Allocation by search: neurons move between layers while the divergence of the whole model falls."""

import numpy as np

from ...models.hooks import restoring
from .curves import N_REFITS, by_curves, tokens_of_curves, tokens_probed
from .probe import probing
from .shares import ALLOCATIONS, round_counts, uniform
from .supernet import Assembly


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
    with restoring(supernet.take_all), probing(probe.device):
        assembly = Assembly(supernet, probe)
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
    counts = round_counts(state * steps, sizes, n_keep, floors=floors)
    return counts, history[-1], history


def _tokens(options, n_layers, n_tokens):
    return tokens_of_curves(options, n_layers, n_tokens) + tokens_probed(options, n_tokens) * options.n_evaluations / 2


@ALLOCATIONS.register(
    "search", needs=("curves", "extremes", "n_evaluations", "random_state", "progress", "measure_cuts"),
    random=True, reads=_tokens, n_refits=N_REFITS, heads="losses",
)  # fmt: skip
def by_search(curves, extremes, n_evaluations, random_state, progress, measure_cuts, n_keep, *, floors=1, round_to=1):
    """Move neurons between layers while the divergence of the whole model falls."""
    budget = {"floors": floors, "round_to": round_to}
    starts = [uniform(curves.sizes, n_keep, floors=floors)]
    starts += [by_curves(curves, e, n_keep, floors=floors) for e in sorted({0.0, 1.0, extremes})]
    counts, _, _ = search_counts(
        curves.supernet, curves.probe, starts, n_keep, floors=floors, n_evaluations=n_evaluations,
        seed=random_state, progress=progress("search", n_evaluations),
    )  # fmt: skip
    # Layers that were refitted one by one can mislead the search, so a cut like the final one decides.
    candidates = [
        round_counts(counts, curves.sizes, n_keep, **budget), by_curves(curves, extremes, n_keep, **budget),
    ]  # fmt: skip
    return candidates[int(measure_cuts(candidates).argmin())]


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

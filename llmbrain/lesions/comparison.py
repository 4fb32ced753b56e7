"""Comparison of networks with their controls: effects, intervals, p-values, and the power of a design."""

import numpy as np
import pandas as pd

from .. import stats

COLUMNS = ["network", "task", "family", "n_neurons", "share", "intact", "effect", "ci_low", "ci_high"]
COLUMNS += ["n_items", "control_mean", "control_sd", "control_max", "n_controls", "z", "p", "p_min", "q"]
COLUMNS += ["p_pooled", "q_pooled"]


def effects_table(networks, items, controls, alternative="greater", **bootstrap):
    """Compare each network with its controls, in every task and family; see :attr:`LesionResult.table`.

    ``networks`` has the columns ``network, n_neurons, share``; ``items`` and ``controls`` are those of a LesionResult.
    ``bootstrap`` are options of :func:`llmbrain.stats.bootstrap_interval`.
    """
    names = list(networks["network"])
    rows = []
    draws = {key: part["effect"].to_numpy() for key, part in controls.groupby(["task", "family", "network"])}
    families = list(dict.fromkeys(controls["family"]))
    for task, part in items.groupby("task", sort=False):
        effect = part.pivot(index="item", columns="network", values="effect")[names]
        first = part[part["network"] == names[0]].set_index("item").loc[effect.index]
        weights = first["weight"].to_numpy(float)
        interval = _intervals(effect.to_numpy(), weights, **bootstrap)
        intact = float(mean_over_items(first["intact"].to_numpy(float), weights))
        n_items = effect.notna().sum().to_numpy()
        for family in families:
            made = [
                compare(interval.estimate[k], draws.get((task, family, n)), alternative) for k, n in enumerate(names)
            ]
            pooled = pooled_p(interval.estimate, [draws.get((task, family, n), ()) for n in names], alternative)
            q, q_pooled = stats.fdr([row["p"] for row in made]), stats.fdr(pooled)
            for k, row in enumerate(made):
                row.update(q=q[k], p_pooled=pooled[k], q_pooled=q_pooled[k])
                head = {**networks.iloc[k].to_dict(), "task": task, "family": family, "intact": intact}
                ends = {"effect": interval.estimate[k], "ci_low": interval.low[k], "ci_high": interval.high[k]}
                rows.append({**head, **ends, "n_items": int(n_items[k]), **row})
    return pd.DataFrame(rows, columns=COLUMNS)


def mean_over_items(values, weights):
    """Average ``(..., n_items)`` with weights, without items that are NaN (unread answers); NaN if no item remains."""
    read = ~np.isnan(values)
    total = read @ weights
    mean = np.where(read, values, 0.0) @ weights / np.where(total > 0, total, 1.0)
    return np.where(total > 0, mean, np.nan)


def _intervals(effects, weights, **options):
    """Bootstrap the columns of ``(n_items, n_networks)``; they share their draws if all items were read."""
    if not np.isnan(effects).any():
        return stats.bootstrap_interval(effects, weights=weights, **options)
    columns = []
    for column in effects.T:
        read = ~np.isnan(column)
        alone = (np.nan,) * 3
        columns.append(
            stats.bootstrap_interval(column[read], weights=weights[read], **options) if read.any() else alone
        )
    return stats.Interval(*np.array(columns, dtype=float).T)


def compare(effect, draws, alternative="greater"):
    """Compare one effect with those of its controls: a dict of ``control_mean, ..., p_min`` (see LesionResult).

    Draws that are NaN are left out; values that need more controls are NaN.
    """
    draws = np.asarray([] if draws is None else draws, dtype=float)
    draws = draws[~np.isnan(draws)]
    n = len(draws)
    mean, sd = (float(np.mean(draws)) if n else np.nan), (float(np.std(draws, ddof=1)) if n > 1 else np.nan)
    return {
        "control_mean": mean,
        "control_sd": sd,
        "control_max": float(np.max(draws)) if n else np.nan,
        "n_controls": n,
        "z": (effect - mean) / sd if sd > 0 else np.nan,
        # a family with one set (the strongest neurons) gives no null distribution
        "p": _p(effect, draws, alternative) if n > 1 else np.nan,
        "p_min": smallest_p(n, alternative) if n > 1 else np.nan,
    }


def _p(effect, draws, alternative):
    # equal accuracies may differ in the last bit by the order of summation; rounding keeps them ties
    return stats.permutation_p(np.round(effect, 9), np.round(draws, 9), alternative)


def pooled_p(effects, draws, alternative="greater"):
    """Compute p-values against the pooled controls of all networks, each on the scale of its own network.

    A network and its N controls are standardised, each by the mean and standard deviation of the N others. The network
    is then ranked among the standardised controls of all K networks. This lowers the smallest p from 1 / (N + 1) to
    1 / (K N + 1), and assumes that control effects have the same distribution in all networks, up to mean and spread
    (pooled permutation nulls: Storey & Tibshirani 2003, PNAS 100, supporting text). Networks with fewer than three
    controls get NaN.
    """
    own = np.full(len(effects), np.nan)
    pool = []
    for k, (effect, part) in enumerate(zip(effects, draws)):
        part = np.asarray(part, dtype=float)
        part = part[~np.isnan(part)]
        if len(part) < 3:
            continue
        scores = _against_the_others(np.r_[effect, part])
        if np.isfinite(scores).all():
            own[k] = scores[0]
            pool.append(scores[1:])
    if not pool:
        return own
    pool = np.round(np.concatenate(pool), 9)
    return stats.permutation_p(np.round(own, 9), np.broadcast_to(pool[:, None], (pool.size, own.size)), alternative)


def _against_the_others(values):
    """Subtract from each value the mean of all others, in units of their standard deviation."""
    n = len(values) - 1
    centred = values - values.mean()  # a shift does not change the result, and keeps the sums small
    mean = (centred.sum() - centred) / n
    variance = np.maximum(((centred**2).sum() - centred**2 - n * mean**2) / (n - 1), 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return (centred - mean) / np.sqrt(variance)


def smallest_p(n_controls, alternative="greater"):
    """Return the smallest p that a rank among ``n_controls`` controls can give.

    Examples
    --------
    >>> smallest_p(19), smallest_p(39, "two-sided")
    (0.05, 0.05)
    """
    return min(1.0, (2 if alternative == "two-sided" else 1) / (n_controls + 1))


def power_note(n_controls, n_networks, alpha=0.05, alternative="greater", what="network"):
    """Describe which p-values a design can reach, and how many controls ``alpha`` needs.

    ``needed_for_one`` controls suffice for a single network, ``needed_for_all`` after correction over all networks.
    ``what`` is the word for what is lesioned.
    """
    sides = 2 if alternative == "two-sided" else 1
    smallest, pooled = smallest_p(n_controls, alternative), smallest_p(n_controls * n_networks, alternative)
    one, every = stats.minimum_draws(alpha, sides), stats.minimum_draws(alpha, sides * n_networks)
    note = f"With {n_controls} controls per {what}, p cannot fall below {smallest:.3g}."
    note += f" p <= {alpha:g} needs {one} controls"
    if n_networks > 1:
        note += f"; q <= {alpha:g} needs {every} if one of {n_networks} {what}s stands out, and {one} if all do"
    note += "."
    if n_controls >= 3 and n_networks > 1:
        note += f" With the controls of all {what}s pooled, p cannot fall below {pooled:.3g}."
    return {
        "smallest_p": smallest,
        "smallest_p_pooled": pooled,
        "needed_for_one": one,
        "needed_for_all": every,
        "alpha": alpha,
        "note": note,
    }

"""Selectivity of lesions: effects of every network on every task, and double dissociations."""

import itertools

import numpy as np
import pandas as pd

from .. import stats
from ..exceptions import ParameterError
from .comparison import mean_over_items


def selectivity(result, family=None, tasks=None):
    """Compute the effects of every network on every task, on the scale of the controls.

    Parameters
    ----------
    result : LesionResult
    family : str, optional
        Control family; default: the first of the study.
    tasks : list of str, optional
        Default: the kinds of text (``loss:code``, ...) if there are any, else all tasks.

    Returns
    -------
    pandas.DataFrame
        ``network, task, effect, ci_low, ci_high, z, p, q, p_pooled, q_pooled``, where both ``q`` are corrected over
        all networks and tasks together (with few controls only the pooled one can be small), and ``selectivity``: z
        minus the mean z of the network's other tasks. ``plot_selectivity(frame, value="z")`` draws it.

    Examples
    --------
    >>> frame = selectivity(result)                                    # doctest: +SKIP
    >>> frame.pivot(index="network", columns="task", values="z")     # doctest: +SKIP
    """
    tasks = _tasks(result, tasks)
    family = family or result.table["family"].iloc[0]
    table = result.table
    if family not in set(table["family"]):
        raise ParameterError(f"The study has no control family {family!r}; it has {sorted(set(table['family']))}.")
    table = table[(table["family"] == family) & table["task"].isin(tasks)].copy()
    table["q"] = stats.fdr(table["p"].to_numpy())
    if "p_pooled" in table:
        table["q_pooled"] = stats.fdr(table["p_pooled"].to_numpy())
    z = table.groupby("network")["z"]
    others = (z.transform("sum") - table["z"]) / (z.transform("count") - 1).clip(lower=1)
    table["selectivity"] = table["z"] - others if len(tasks) > 1 else np.nan
    columns = ["network", "task", "effect", "ci_low", "ci_high", "z", "p", "q", "p_pooled", "q_pooled", "selectivity"]
    return table[[c for c in columns if c in table]].reset_index(drop=True)


def double_dissociations(
    result, *, tasks=None, networks=None, family=None, alpha=0.05, n_bootstrap=5000, random_state=0
):
    """Find pairs of networks and tasks in which each lesion harms its own task more than the other lesion does.

    For networks i, j and tasks a, b a double dissociation needs both ``effect(i, a) > effect(j, a)`` and
    ``effect(j, b) > effect(i, b)``. Each half is tested by a bootstrap over the items of its task, paired between the
    networks; the pair gets the larger of the two p-values (intersection-union test), and q is the FDR over all pairs of
    networks and tasks, whether they cross or not.

    Parameters
    ----------
    result : LesionResult
    tasks, networks : list of str, optional
        What to compare; by default the tasks of :func:`selectivity` and all networks.
    family : str, optional
        Control family for ``beyond_controls``.
    alpha : float
        Level for ``beyond_controls``.
    n_bootstrap : int
        Bootstrap draws of items.
    random_state : int

    Returns
    -------
    pandas.DataFrame
        One row per crossing pair, lowest q first: ``network_1, network_2, task_1, task_2``, the four effects
        ``effect_11`` (of network 1 on task 1), ``effect_21, effect_22, effect_12``, ``interaction`` (the sum of both
        differences), ``p``, ``q``, ``beyond_controls`` (whether both lesions harm their own task at ``p < alpha``
        against their matched controls).

    References
    ----------
    Shallice (1988), From Neuropsychology to Mental Structure, ch. 10. Berger (1982), Technometrics 24, 295-300
    (intersection-union).
    """
    tasks, networks = _tasks(result, tasks), list(networks or result.networks)
    if len(tasks) < 2 or len(networks) < 2:
        raise ParameterError(f"A double dissociation needs two tasks and two networks; got {tasks} and {networks}.")
    effect, more, larger = {}, {}, {}
    for task in tasks:
        effect[task], more[task], larger[task] = _pairwise(result, task, networks, n_bootstrap, random_state)
    rows = []
    for (a, b), (i, j) in itertools.product(
        itertools.combinations(tasks, 2), itertools.permutations(range(len(networks)), 2)
    ):
        crossing = more[a][i, j] > 0 and more[b][j, i] > 0
        p = max(larger[a][i, j], larger[b][j, i])
        rows.append((networks[i], networks[j], a, b, i, j, crossing, p))
    q = stats.fdr([row[-1] for row in rows])
    beyond = _beyond_controls(result, family, alpha)
    found = []
    for (first, second, a, b, i, j, crossing, p), q_value in zip(rows, q):
        if not crossing:
            continue
        four = effect[a][i], effect[a][j], effect[b][j], effect[b][i]
        both_beyond = beyond.get((first, a), False) and beyond.get((second, b), False)
        found.append((first, second, a, b, *four, more[a][i, j] + more[b][j, i], p, q_value, both_beyond))
    columns = ["network_1", "network_2", "task_1", "task_2", "effect_11", "effect_21", "effect_22", "effect_12"]
    frame = pd.DataFrame(found, columns=[*columns, "interaction", "p", "q", "beyond_controls"])
    return frame.sort_values(["q", "interaction"], ascending=[True, False], kind="stable").reset_index(drop=True)


def _pairwise(result, task, networks, n_bootstrap, random_state):
    """Return mean effects, and for every two networks their paired difference and its one-sided bootstrap p."""
    items = result.items[result.items["task"] == task]
    effects = items.pivot(index="item", columns="network", values="effect")[networks]
    weights = items[items["network"] == networks[0]].set_index("item").loc[effects.index, "weight"].to_numpy(float)
    effects = effects.to_numpy()
    n, k = effects.shape
    if n < 2:
        raise ParameterError(
            f"The task {task!r} has one item; a dissociation is tested over items, so it needs several."
        )
    rng = np.random.default_rng(random_state)
    counts = rng.multinomial(n, np.full(n, 1 / n), size=n_bootstrap) * weights
    difference, p = np.zeros((k, k)), np.ones((k, k))
    for i in range(k):
        more = effects[:, [i]] - effects
        read = ~np.isnan(more)  # without answers that could not be read under one of the two lesions
        more = np.where(read, more, 0.0)
        with np.errstate(invalid="ignore"):
            means = (counts @ more) / (counts @ read)
            difference[i] = (weights @ more) / (weights @ read)
        p[i] = (1 + (~(means > 0)).sum(axis=0)) / (n_bootstrap + 1)
    return mean_over_items(effects.T, weights), difference, p


def _beyond_controls(result, family, alpha):
    family = family or result.table["family"].iloc[0]
    table = result.table[result.table["family"] == family]
    return {(n, t): bool(p < alpha) for n, t, p in zip(table["network"], table["task"], table["p"])}


def _tasks(result, tasks):
    if tasks is None:
        parts = [t for t in result.tasks if ":" in t]
        return parts or result.tasks
    unknown = sorted(set(tasks) - set(result.tasks))
    if unknown:
        raise ParameterError(f"The study has no task {', '.join(unknown)}; it has {', '.join(result.tasks)}.")
    return list(tasks)

"""What a lesion study found, as tables that can be saved and read again."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from .. import stats
from ..exceptions import DatasetError
from ..files import read_json, read_tsv, write_json, write_tsv

__all__ = ["LesionResult", "compare", "effects_table", "kinds_or_none", "pooled_p", "power_note"]

FILES = {"table": "effects.tsv", "controls": "controls.tsv", "items": "items.tsv", "info": "effects.json"}
_KINDS = {"table": "lesion_effects", "controls": "lesion_controls", "items": "lesion_items", "info": "lesion_json"}
COLUMNS = ["network", "task", "family", "n_neurons", "share", "intact", "effect", "ci_low", "ci_high"]
COLUMNS += ["control_mean", "control_sd", "control_max", "n_controls", "z", "p", "q", "p_pooled", "q_pooled"]
_TEXT = {"network": str, "task": str, "family": str, "item": str, "kind": str}


@dataclass
class LesionResult:
    """Effects of a lesion study.

    An effect is lesioned minus intact, with the sign turned so that larger is worse (loss up, accuracy down).

    Parameters
    ----------
    table : pandas.DataFrame
        A row for every network, task and control family: ``network, task, family, n_neurons, share, intact`` (value of
        the intact model), ``effect, ci_low, ci_high`` (bootstrap over items), ``control_mean, control_sd, control_max,
        n_controls, z`` (distance from the controls in their standard deviations), ``p`` (permutation, one-sided unless
        the study says otherwise), ``q`` (FDR over the networks of one task and family), ``p_pooled`` and ``q_pooled``
        (the same against the controls of all networks, see :func:`pooled_p`).
    controls : pandas.DataFrame
        A row for every control draw: ``network, task, family, draw, n_neurons, overlap`` (share that lies in the
        network), ``importance_ratio`` (summed importance relative to the network's), ``effect``.
    items : pandas.DataFrame
        A row for every network and item: ``network, task, item, kind, weight, intact, effect``.
    info : dict
        How it was made: seeds, versions, texts, families, warnings, the power of the design.
    """

    table: pd.DataFrame
    controls: pd.DataFrame
    items: pd.DataFrame
    info: dict = field(default_factory=dict)

    @property
    def networks(self):
        """Names of the networks, in order."""
        return list(dict.fromkeys(self.table["network"]))

    @property
    def tasks(self):
        """Names of the tasks, in order."""
        return list(dict.fromkeys(self.table["task"]))

    def matrix(self, value="effect", family=None):
        """Networks by tasks, e.g. ``matrix("z")``: a data frame of one column of the table."""
        family = family or self.table["family"].iloc[0]
        table = self.table[self.table["family"] == family]
        return table.pivot(index="network", columns="task", values=value).loc[self.networks, self.tasks]

    def summary(self):
        """Say in a few lines what was found.

        Returns
        -------
        str
        """
        lines = []
        main = self.table[self.table["task"] == self.tasks[0]]
        for family, rows in main.groupby("family", sort=False):
            above = int((rows["effect"] > rows["control_max"]).sum())
            found, pooled = (int((rows[column] < 0.05).sum()) for column in ("q", "q_pooled"))
            lines.append(
                f"{family}: {above} of {len(rows)} networks do more harm than each of their {rows['n_controls'].max()} "
                f"controls; {found} pass q < 0.05, {pooled} when controls are pooled over networks."
            )
        lines.append(self.info.get("power", {}).get("note", ""))
        lines += self.info.get("warnings", [])
        return "\n".join(line for line in lines if line)

    # -- files ----------------------------------------------------------------------------------------------------
    def save(self, study, desc=None):
        """Write tables (TSV) and description (JSON).

        Parameters
        ----------
        study : Study or path-like
            A study of :mod:`llmbrain.dataset`, or a plain folder.
        desc : str, optional
            Distinguishes several lesion studies of one study folder.

        Returns
        -------
        list of pathlib.Path
            The files written.
        """
        paths = _paths(study, desc)
        for name in ("table", "controls", "items"):
            write_tsv(paths[name], getattr(self, name))
        write_json(paths["info"], self.info)
        return list(paths.values())

    @classmethod
    def load(cls, study, desc=None):
        """Read what :meth:`save` wrote."""
        paths = _paths(study, desc)
        missing = [str(path) for path in paths.values() if not path.is_file()]
        if missing:
            raise DatasetError(f"No lesion study there: {', '.join(missing)} missing. Run one and save it first.")
        frames = {name: read_tsv(paths[name], dtype=_TEXT) for name in ("table", "controls", "items")}
        frames["items"]["kind"] = kinds_or_none(frames["items"]["kind"])
        return cls(**frames, info=read_json(paths["info"]))


def kinds_or_none(kinds):
    """Texts or None, whatever a version of pandas makes of a column of texts with gaps.

    Parameters
    ----------
    kinds : pandas.Series

    Returns
    -------
    pandas.Series
        Of objects.
    """
    kinds = kinds.astype(object)
    return kinds.where(kinds.notna(), None)


def _paths(study, desc):
    if hasattr(study, "path"):
        entities = {} if desc is None else {"desc": desc}
        return {name: study.path(kind, **entities) for name, kind in _KINDS.items()}
    prefix = f"{desc}_" if desc else ""
    return {name: Path(study) / f"{prefix}{file}" for name, file in FILES.items()}


def effects_table(networks, items, controls, *, alternative="greater", n_bootstrap=2000, level=0.95, random_state=0):
    """Compare each network with its controls, in every task and family.

    Parameters
    ----------
    networks : pandas.DataFrame
        ``network, n_neurons, share``, a row a network.
    items : pandas.DataFrame
        ``network, task, item, weight, intact, effect``; paired over networks.
    controls : pandas.DataFrame
        ``network, task, family, draw, effect``.
    alternative : {"greater", "less", "two-sided"}
    n_bootstrap : int
        Draws of items for the interval.
    level : float
        Of the interval.
    random_state : int

    Returns
    -------
    pandas.DataFrame
        See :attr:`LesionResult.table`.
    """
    names = list(networks["network"])
    rows = []
    draws = {key: part["effect"].to_numpy() for key, part in controls.groupby(["task", "family", "network"])}
    families = list(dict.fromkeys(controls["family"]))
    for task, part in items.groupby("task", sort=False):
        effect = part.pivot(index="item", columns="network", values="effect")[names]
        first = part[part["network"] == names[0]].set_index("item").loc[effect.index]
        weights = first["weight"].to_numpy(float)
        interval = stats.bootstrap_interval(
            effect.to_numpy(), weights=weights, n_draws=n_bootstrap, level=level, random_state=random_state
        )
        intact = float(np.average(first["intact"], weights=weights))
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
                rows.append({**head, **ends, **row})
    return pd.DataFrame(rows, columns=COLUMNS)


def compare(effect, draws, alternative="greater"):
    """Place one effect among those of its controls.

    Parameters
    ----------
    effect : float
    draws : array of shape (n_controls,) or None
    alternative : {"greater", "less", "two-sided"}

    Returns
    -------
    dict
        ``control_mean, control_sd, control_max, n_controls, z, p``; NaN where there are too few controls.
    """
    if draws is None or not len(draws):
        return {
            "control_mean": np.nan,
            "control_sd": np.nan,
            "control_max": np.nan,
            "n_controls": 0,
            "z": np.nan,
            "p": np.nan,
        }
    sd = float(np.std(draws, ddof=1)) if len(draws) > 1 else np.nan
    mean = float(np.mean(draws))
    return {
        "control_mean": mean,
        "control_sd": sd,
        "control_max": float(np.max(draws)),
        "n_controls": len(draws),
        "z": (effect - mean) / sd if sd and sd > 0 else np.nan,
        # a family of one set (the strongest neurons) has no distribution to be tested against
        "p": _p(effect, draws, alternative) if len(draws) > 1 else np.nan,
    }


def _p(effect, draws, alternative):
    # equal accuracies differ in the last bit by the order of summation; rounding lets ties be ties
    return stats.permutation_p(np.round(effect, 9), np.round(draws, 9), alternative)


def pooled_p(effects, draws, alternative="greater"):
    """p-values against the controls of all networks together, each on the scale of its own network.

    A network and its N controls are standardised by mean and standard deviation of the N others of each; the network
    is then ranked among the standardised controls of all K networks. The smallest p falls from 1 / (N + 1) to
    1 / (K N + 1), at the price of an assumption: control effects have one shape in all networks, whatever their mean
    and spread (pooled permutation nulls: Storey & Tibshirani 2003, PNAS 100, supporting text).

    Parameters
    ----------
    effects : array of shape (n_networks,)
    draws : sequence of n_networks arrays
    alternative : {"greater", "less", "two-sided"}

    Returns
    -------
    float array of shape (n_networks,)
        NaN for networks of fewer than three controls.
    """
    own = np.full(len(effects), np.nan)
    pool = []
    for k, (effect, part) in enumerate(zip(effects, draws)):
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
    """Each value minus the mean of all others, in standard deviations of these."""
    n = len(values) - 1
    centred = values - values.mean()  # a shift changes nothing, and keeps the sums below small
    mean = (centred.sum() - centred) / n
    variance = np.maximum(((centred**2).sum() - centred**2 - n * mean**2) / (n - 1), 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return (centred - mean) / np.sqrt(variance)


def power_note(n_controls, n_networks, alpha=0.05):
    """Say which p-values a design can reach at all.

    Parameters
    ----------
    n_controls, n_networks : int
    alpha : float

    Returns
    -------
    dict
        ``smallest_p``, ``needed_for_one`` and ``needed_for_all`` (controls with which a single network can pass
        ``alpha`` uncorrected, and after correction over all networks), ``note``.

    Examples
    --------
    >>> power_note(20, 10)["smallest_p"], power_note(20, 10)["needed_for_all"]
    (0.047619047619047616, 199)
    """
    smallest = 1 / (n_controls + 1)
    one, every = stats.minimum_draws(alpha), stats.minimum_draws(alpha, n_networks)
    note = (
        f"With {n_controls} controls a network the smallest p is {smallest:.3f}. {one} controls are needed for p < "
        f"{alpha:g} at all, and {every} for q < {alpha:g} if one of {n_networks} networks stands out ({one} if all do)."
    )
    return {"smallest_p": smallest, "needed_for_one": one, "needed_for_all": every, "alpha": alpha, "note": note}

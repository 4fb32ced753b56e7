"""Dose and response: how an effect grows with the threshold, the size, the strength of a lesion, or the gain."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from .. import stats
from ..exceptions import DatasetError, MaskError, ParameterError
from ..files import read_json, read_tsv, write_json, write_tsv
from ..masks import ControlFamily, NeuronMask, draw_control
from .comparison import compare, mean_over_items
from .context import sites_of
from .guards import known_texts, network_texts, warn_of_double_dipping
from .kinds import NEEDS_REFERENCE, Edit
from .options import checked_options, checked_seed
from .plan import named_masks
from .running import Runner
from .statistics import NeuronStatistics, neuron_statistics
from .tasks import as_tasks

__all__ = ["DOSES", "DoseResponse", "dose_response"]

OPTIONS = {
    "alternative": None,
    "value": None,
    "importance": "fluctuation",
    "check_model": True,
    "fitted_on": None,
    "checkpoint": None,
    "max_tokens": None,
    "mode": "auto",
    "autocast": None,
    "positions": "all",
}

DOSES = {
    "strength": (0.0, 0.25, 0.5, 0.75, 1.0),
    "gain": (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0),
    "threshold": (2.0, 2.5, 3.0, 3.5, 4.0),
    "n_neurons": (50, 100, 200, 400, 800),
}


@dataclass
class DoseResponse:
    """Curves of networks and of their controls.

    Parameters
    ----------
    table : pandas.DataFrame
        A row for every network and dose: ``network``, the dose under its own name, ``n_neurons, effect, ci_low,
        ci_high, control_mean, control_sd, control_max, n_controls, z, p`` (see :class:`LesionResult`), ``control_low,
        control_high`` (5 and 95 % of the controls). Goes into :func:`llmbrain.plotting.plot_dose_response`.
    controls : pandas.DataFrame
        A row for every network, dose and draw: ``effect``. With ``strength`` and ``gain`` a draw is the same set at
        every dose, so that its rows are a curve.
    info : dict
    """

    table: pd.DataFrame
    controls: pd.DataFrame
    info: dict = field(default_factory=dict)

    def save(self, study, desc=None):
        """Write tables (TSV) and description (JSON) into a study.

        Parameters
        ----------
        study : Study or path-like
            A study of :mod:`llmbrain.dataset`.
        desc : str, optional
            Name in the file names; what the dose is by default (``strength``, ``gain`` ...).

        Returns
        -------
        list of pathlib.Path
        """
        paths = _paths(study, desc or self.info.get("over", "strength"))
        return [
            write_tsv(paths["dose_effects"], self.table), write_tsv(paths["dose_controls"], self.controls),
            write_json(paths["dose_json"], self.info),
        ]  # fmt: skip

    @classmethod
    def load(cls, study, desc="strength"):
        """Read what :meth:`save` wrote."""
        paths = _paths(study, desc)
        missing = [str(path) for path in paths.values() if not path.is_file()]
        if missing:
            raise DatasetError(f"No dose and response there: {', '.join(missing)} missing. Save one first.")
        tables = (read_tsv(paths[kind], dtype={"network": str}) for kind in ("dose_effects", "dose_controls"))
        return cls(*tables, read_json(paths["dose_json"]))


def _paths(study, desc):
    if not hasattr(study, "path"):
        from ..dataset import Study

        study = Study.open(study)
    desc = desc.replace("_", "")  # an entity holds letters and digits
    return {kind: study.path(kind, desc=desc) for kind in ("dose_effects", "dose_controls", "dose_json")}


def dose_response(
    model,
    tokenizer,
    networks,
    over="strength",
    doses=None,
    *,
    task=None,
    how="zero",
    n_controls=10,
    family=("layer", "importance"),
    reference=None,
    random_state=0,
    maps=None,
    progress=True,
    options=None,
):
    """Measure the effect of a lesion at several doses, for networks and matched controls.

    Parameters
    ----------
    model : transformers causal language model
    tokenizer : transformers tokenizer
    networks : NeuronMask, list of NeuronMask, or NetworkSet
    over : {"strength", "gain", "threshold", "n_neurons"}
        ``strength``: share of the way to the lesion, 0 to 1; ``gain``: factor by which the neurons are amplified (or
        weakened, below 1); ``threshold``: neurons of ``|map|`` above it; ``n_neurons``: so many of the highest
        ``|map|``.
    doses : sequence of numbers, optional
        Default: :data:`DOSES`.
    task : task, optional
        See :class:`LesionStudy`; its first group counts. Default: the loss on the held-out demo corpus.
    how : str
        Kind of lesion (not for ``gain``).
    n_controls : int
        Control sets a network (and dose, where the size changes).
    family : str or tuple
        Family of the controls, see :data:`llmbrain.masks.CONTROLS`.
    reference
        See :class:`LesionStudy`.
    random_state : int
    maps : array of shape (n_networks, n_neurons), optional
        For ``threshold`` and ``n_neurons``; a NetworkSet brings its own.
    progress : bool
    options : dict, optional
        ``max_tokens``, ``mode``, ``autocast``, ``positions`` (see :class:`llmbrain.lesions.running.Runner`),
        ``alternative``, ``value`` (of the lesion), ``importance``, ``check_model``, ``fitted_on`` (the text that the
        networks were found on, where they do not know it), ``checkpoint`` (a ``.npz`` file to go on from).

    Returns
    -------
    DoseResponse

    Raises
    ------
    ParameterError, MaskError, GeometryMismatchError
        Before any long work; for instance if a threshold leaves a network empty.

    Examples
    --------
    >>> curve = dose_response(model, tokenizer, masks, over="gain", doses=(0.5, 1, 2))  # doctest: +SKIP
    >>> plot_dose_response(curve.table, x="gain")                                      # doctest: +SKIP
    """
    if over not in DOSES:
        raise ParameterError(f"over={over!r} is unknown; choose from {', '.join(DOSES)}.")
    options = checked_options(options, OPTIONS, how, "dose_response")
    random_state = checked_seed(random_state)
    if isinstance(n_controls, bool) or not isinstance(n_controls, (int, np.integer)) or n_controls < 0:
        raise ParameterError(f"n_controls is a whole number from 0 on; got {n_controls!r}.")
    doses = _checked_doses(over, DOSES[over] if doses is None else doses)
    given, (masks, maps) = networks, named_masks(networks, maps)
    sites = sites_of(model, masks[0], check_model=options["check_model"])
    by = options["importance"]
    family = ControlFamily.parse(family, by if isinstance(by, str) else "given")
    if not family.member.random:
        raise ParameterError(f"The family {family.label!r} has no draws to follow over doses; choose another one.")
    running = {name: options[name] for name in ("max_tokens", "mode", "autocast", "positions")}
    runner = Runner(model, tokenizer, sites, **running)
    if how not in NEEDS_REFERENCE:  # says now what is wrong with the kind of lesion
        _edit(masks[0], over, doses[0], how, options["value"], None, random_state)
    prepared = as_tasks(task)[0].prepare(model, tokenizer)
    statistics = _statistics(model, tokenizer, masks[0], family, how, reference, random_state)
    importance = by if family.importance == "given" else None
    if family.importance not in (None, "given"):
        importance = statistics.importance(family.importance)
    lesions = _lesions(masks, maps, over, doses, family, importance, n_controls, random_state)
    edits = [_edit(mask, over, dose, how, options["value"], statistics, random_state) for *_, dose, mask in lesions]
    sources = {
        "networks": network_texts(given, masks, options["fitted_on"]),
        "importances and reference values": known_texts(getattr(statistics, "info", None)),
    }
    warned = warn_of_double_dipping([prepared], sources)
    (values,) = runner.run([prepared], edits, progress=progress, checkpoint=options["checkpoint"])
    table, controls = _tables(prepared, values, lesions, over, options["alternative"], random_state)
    info = {
        "over": over,
        "doses": list(doses),
        "how": "scale" if over == "gain" else how,
        "task": prepared.name,
        "unit": prepared.unit,
        "family": {family.label: family.description},
        "n_controls": n_controls,
        "random_state": random_state,
        "mode": runner.mode,
        "autocast": runner.autocast,
        "warnings": warned,
    }
    return DoseResponse(table, controls, info)


def _checked_doses(over, doses):
    doses = [int(d) if over == "n_neurons" else float(d) for d in np.atleast_1d(doses)]
    if not doses or len(set(doses)) < len(doses) or not np.isfinite(doses).all():
        raise ParameterError(f"doses are different finite numbers, at least one; got {doses}.")
    if over == "strength" and not all(0 <= d <= 1 for d in doses):
        raise ParameterError(f"A strength lies between 0 and 1; got {doses}. To amplify use over='gain'.")
    return doses


def _statistics(model, tokenizer, mask, family, how, reference, random_state):
    if isinstance(reference, NeuronStatistics):
        mask.geometry.check_same(reference.geometry, "The reference")
        return reference
    if family.importance in (None, "given") and how not in NEEDS_REFERENCE:
        return None
    return neuron_statistics(
        model,
        tokenizer,
        "demo" if reference is None else reference,
        site=mask.geometry.site,
        n_samples=1000 if how == "resample" else 0,
        random_state=random_state,
    )


def _lesions(masks, maps, over, doses, family, importance, n_controls, random_state):
    """``(network, draw, dose, mask)``; draw -1 is the network itself."""
    if over in ("threshold", "n_neurons") and maps is None:
        raise ParameterError(f"over={over!r} needs the maps of the networks: maps=, or a NetworkSet.")
    lesions = []
    for k, mask in enumerate(masks):
        for number, dose in enumerate(doses):
            own = _at_dose(mask, None if maps is None else maps[k], over, dose)
            lesions.append((k, -1, dose, own))
            for draw in range(n_controls):
                # the same set at every strength and gain; a set of its own where the size changes
                seed = [random_state, k, draw, number if over in ("threshold", "n_neurons") else 0]
                map = None if maps is None else np.abs(maps[k])
                values = draw_control(family.name, own.values, own.geometry, seed, importance=importance, map=map)
                lesions.append((k, draw, dose, NeuronMask(values, mask.geometry, mask.name)))
    return lesions


def _at_dose(mask, map, over, dose):
    if over == "threshold":
        mask = NeuronMask.from_map(map, mask.geometry, dose, name=mask.name, info=mask.info)
        if not mask.count:
            raise MaskError(f"No neuron of {mask.name} lies above {dose:g}; leave this threshold out.")
    elif over == "n_neurons":
        mask = NeuronMask.top(map, dose, mask.geometry, name=mask.name, info=mask.info)
    return mask


def _edit(mask, over, dose, how, value, statistics, random_state):
    if over == "gain":
        return Edit(mask, "scale", value=dose)
    reference = statistics if how in NEEDS_REFERENCE else None
    strength = dose if over == "strength" else 1.0
    return Edit(mask, how, value=value, strength=strength, reference=reference, random_state=random_state)


def _tables(task, values, lesions, over, alternative, random_state):
    label, members = next(iter(task.groups.items()))
    weights = task.weights[members]
    effects = values[1:, members] - values[0, members]
    means = mean_over_items(effects, weights)
    names = {k: mask.name for k, draw, _, mask in lesions if draw < 0}
    rows, draws = [], []
    for i, (k, draw, dose, mask) in enumerate(lesions):
        if draw >= 0:
            draws.append({"network": names[k], over: dose, "draw": draw, "n_neurons": mask.count, "effect": means[i]})
            continue
        others = [means[j] for j, (m, d, at, _) in enumerate(lesions) if m == k and d >= 0 and at == dose]
        read = ~np.isnan(effects[i])
        interval = stats.bootstrap_interval(effects[i][read], weights=weights[read], random_state=random_state)
        low, high = np.quantile(others, [0.05, 0.95]) if others else (np.nan, np.nan)
        size = {} if over == "n_neurons" else {"n_neurons": mask.count}
        rows.append(
            {
                "network": names[k],
                over: dose,
                **size,
                "effect": interval.estimate,
                "ci_low": interval.low,
                "ci_high": interval.high,
                **compare(interval.estimate, others, alternative),
                "control_low": low,
                "control_high": high,
            }
        )
    return pd.DataFrame(rows), pd.DataFrame(draws)

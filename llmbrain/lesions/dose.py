"""Doses: the axis of a lesion study over strengths, gains, thresholds or sizes, and the curves that it gives."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from .. import stats
from ..dataset import as_study, bids_label, open_result, write_result
from ..exceptions import MaskError, ParameterError
from ..masks import NeuronMask
from ..models.identity import describe_model
from ..registry import Registry
from .comparison import compare, mean_over_items
from .sources import derived_name, describe_reference, lesioned_networks, public, sources_of

# defaults: doses that a study uses if none are given; resizes: the set of neurons depends on the dose, so maps are
# needed and controls are drawn anew at every dose
DOSES = Registry("dose", defaults=(), resizes=False)


class DoseAxis:
    """Base class of the dose axes: what a dose changes about a lesion."""

    how = None  # the lesion kind, if the axis fixes it
    number = float

    def __init__(self, over, doses):
        doses = np.atleast_1d(doses)
        self.over, self.doses = over, [self.number(d) for d in doses]
        if not self.doses or len(set(self.doses)) < len(self.doses) or not np.isfinite(self.doses).all():
            raise ParameterError(f"doses must be different finite numbers, at least one; got {self.doses}.")

    @property
    def member(self):
        """The entry in :data:`DOSES`, with what it declares."""
        return DOSES[self.over]

    def mask_at(self, mask, map, dose):
        """Return the lesioned neurons at a dose."""
        return mask

    def edit_options(self, dose):
        """Return the options of :class:`llmbrain.lesions.Edit` at a dose."""
        return {}


@DOSES.register("strength", defaults=(0.0, 0.25, 0.5, 0.75, 1.0))
class StrengthAxis(DoseAxis):
    """How far the values move towards the lesion, 0 to 1."""

    def __init__(self, over, doses):
        super().__init__(over, doses)
        if not all(0 <= d <= 1 for d in self.doses):
            raise ParameterError(f"A strength must be between 0 and 1; got {self.doses}. To amplify, use 'gain'.")

    def edit_options(self, dose):
        return {"strength": dose}


@DOSES.register("gain", defaults=(0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0))
class GainAxis(DoseAxis):
    """Factor by which the neurons are amplified (above 1) or weakened."""

    how = "scale"

    def edit_options(self, dose):
        return {"value": dose, "strength": 1.0}


@DOSES.register("threshold", defaults=(2.0, 2.5, 3.0, 3.5, 4.0), resizes=True)
class ThresholdAxis(DoseAxis):
    """The neurons with ``|map|`` above a threshold."""

    def mask_at(self, mask, map, dose):
        mask = NeuronMask.from_map(map, mask.geometry, dose, name=mask.name, info=mask.info)
        if not mask.count:
            raise MaskError(f"No neuron of {mask.name} is above {dose:g}; leave this threshold out.")
        return mask


@DOSES.register("n_neurons", defaults=(50, 100, 200, 400, 800), resizes=True)
class SizeAxis(DoseAxis):
    """The given number of neurons with the highest ``|map|``."""

    number = int

    def mask_at(self, mask, map, dose):
        return NeuronMask.top(map, dose, mask.geometry, name=mask.name, info=mask.info)


def dose_axis(doses):
    """Make the axis of a study from its option ``doses``: a key of :data:`DOSES`, or a dict of one key to doses."""
    doses = {doses: None} if isinstance(doses, str) else doses
    if not isinstance(doses, dict) or len(doses) != 1:
        raise ParameterError(
            f"doses must be a name or a dict with one entry, such as {{'gain': (1, 2)}}; got {doses!r}."
        )
    ((over, values),) = doses.items()
    member = DOSES[over]
    return member(over, member.defaults if values is None else values)


@dataclass(repr=False)
class DoseResponse:
    """Curves of networks and of their controls.

    Parameters
    ----------
    table : pandas.DataFrame
        One row per network and dose: ``network``, the dose under its own name, ``n_neurons, effect, ci_low, ci_high,
        control_mean, control_sd, control_max, n_controls, z, p`` (see :class:`LesionResult`), ``control_low,
        control_high`` (5 and 95 % of the controls). :func:`llmbrain.plotting.plot_dose_response` draws it.
    controls : pandas.DataFrame
        One row per network, dose and draw: ``effect``. With ``strength`` and ``gain`` a draw is the same set at every
        dose, so its rows form a curve.
    info : dict
    """

    table: pd.DataFrame
    controls: pd.DataFrame
    info: dict = field(default_factory=dict)

    def __repr__(self):
        networks, over = self.table["network"].nunique(), self.info.get("over", "dose")
        return (
            f"DoseResponse({networks} networks over {over}: {', '.join(f'{d:g}' for d in self.info.get('doses', []))})"
        )

    def save(self, study, name=None):
        """Write the tables (TSV) and the description (JSON) into a study folder as one result.

        Parameters
        ----------
        study : Study or path-like
            A study of :mod:`llmbrain.dataset`.
        name : str, optional
            Label in the file names; by default the name of the networks, if the study holds them, and what the dose is
            (``strength``, ``gain``, ...).

        Returns
        -------
        list of pathlib.Path
        """
        study = as_study(study)
        name = bids_label(name or derived_name(study, self.info, "") + self.info.get("over", "strength"))
        parts = {"dose_effects": self.table, "dose_controls": self.controls}
        return write_result(study, "doses", name, parts, self.info, sources=sources_of(self.info, study)).paths

    @classmethod
    def load(cls, study, name=None):
        """Read what :meth:`save` wrote, and check that the files belong together.

        ``name`` is needed if the study holds several dose responses. A result that no longer belongs to the study
        raises a :class:`~llmbrain.exceptions.StaleResultWarning`.
        """
        return cls.of_result(open_result(as_study(study), "doses", name).warn_if_stale())

    @classmethod
    def of_result(cls, result):
        """Read an open result of a study."""
        tables = (result.read(part, dtype={"network": str}) for part in ("dose_effects", "dose_controls"))
        return cls(*tables, result.info)


def dose_result(design, values):
    """Make the :class:`DoseResponse` of a study over doses.

    ``values`` holds one array ``(1 + n_conditions, n_items)``; row 0 is the intact model.
    """
    return DoseResponse(*_tables(design, values), _describe(design))


def _tables(design, values):
    """Effects of the networks and of their controls at every dose, for the first group of items of the task."""
    (task,), (values,), axis = design.tasks, values, design.axis
    members = next(iter(task.groups.values()))
    weights = task.weights[members]
    effects = values[1:, members] - values[0, members]
    means = mean_over_items(effects, weights)
    heads = [{"network": design.masks[c.network].name, axis.over: c.dose} for c in design.conditions]
    rows, draws, of_controls = [], [], {}
    for mean, head, condition in zip(means, heads, design.conditions):
        if condition.family is not None:
            of_controls.setdefault((condition.network, condition.dose), []).append(mean)
            draws.append({**head, "draw": condition.draw, "n_neurons": condition.mask.count, "effect": mean})
    for effect, head, condition in zip(effects, heads, design.conditions):
        if condition.family is not None:
            continue
        head.setdefault("n_neurons", condition.mask.count)
        others = of_controls.get((condition.network, condition.dose), [])
        read = ~np.isnan(effect)
        interval = stats.bootstrap_interval(effect[read], weights=weights[read], **design.bootstrap)
        low, high = np.quantile(others, [0.05, 0.95]) if others else (np.nan, np.nan)
        rows.append(
            {
                **head,
                "effect": interval.estimate,
                "ci_low": interval.low,
                "ci_high": interval.high,
                **compare(interval.estimate, others, design.alternative),
                "control_low": low,
                "control_high": high,
            }
        )
    return pd.DataFrame(rows), pd.DataFrame(draws)


def _describe(design):
    """What the sidecar of a :class:`DoseResponse` contains."""
    (task,), (family,) = design.tasks, design.families
    return {
        "model": describe_model(design.model),
        "networks": lesioned_networks(design.masks),
        "tasks": {task.name: public(task.info)},
        "over": design.axis.over,
        "doses": list(design.axis.doses),
        "how": design.how,
        "task": task.name,
        "unit": task.unit,
        "family": {family.label: family.description},
        "n_controls": int(design.study.n_controls),
        "reference": describe_reference(design.statistics),
        "random_state": design.seed,
        "mode": design.scorer.mode,
        "autocast": design.scorer.autocast,
    }

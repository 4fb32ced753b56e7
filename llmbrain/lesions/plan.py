"""A lesion study made ready for one model: its controls drawn, its passes run, its tables filled."""

from functools import cached_property

import numpy as np
import pandas as pd

from ..exceptions import MaskError, ParameterError
from ..masks import ControlFamily, NeuronMask, draw_control
from ..masks.controls import overlap_share
from ..networks.result import THRESHOLD
from .comparison import mean_over_items, power_note
from .context import sites_of
from .guards import known_texts, network_texts, warn_of_double_dipping
from .kinds import NEEDS_REFERENCE, Edit
from .options import checked_options, checked_seed
from .positions import check_positions
from .result import kinds_or_none
from .running import Runner
from .statistics import IMPORTANCES, NeuronStatistics, neuron_statistics
from .tasks import as_tasks

__all__ = ["OPTIONS", "Plan", "named_masks"]

OPTIONS = {
    "value": None,
    "strength": 1.0,
    "positions": "all",
    "importance": "fluctuation",
    "n_nearest": 10,
    "maps": None,
    "fitted_on": None,
    "alternative": None,
    "n_bootstrap": 2000,
    "level": 0.95,
    "max_tokens": None,
    "mode": "auto",
    "autocast": None,
    "check_model": True,
}


CONTROL_COLUMNS = ["network", "task", "family", "draw", "n_neurons", "overlap", "importance_ratio", "effect"]


class Plan:
    """A study and a model: everything that can go wrong early goes wrong here.

    Parameters
    ----------
    study : LesionStudy
    model : transformers causal language model
    tokenizer : transformers tokenizer
    """

    def __init__(self, study, model, tokenizer):
        self.study, self.model, self.tokenizer = study, model, tokenizer
        self.options = checked_options(study.options, OPTIONS, study.how, "a lesion study")
        self.seed = checked_seed(study.random_state)
        self.masks, self.maps = named_masks(study.masks, self.options["maps"])
        self.geometry = self.masks[0].geometry
        for mask in self.masks:
            self.geometry.check_same(mask.geometry, f"The mask {mask.name}")
        self.sites = sites_of(model, self.masks[0], check_model=self.options["check_model"])
        running = {name: self.options[name] for name in ("max_tokens", "mode", "autocast", "positions")}
        self.runner = Runner(model, tokenizer, self.sites, **running)
        if not isinstance(study.n_controls, (int, np.integer)) or study.n_controls < 1:
            raise ParameterError(f"n_controls is a whole number of at least 1; got {study.n_controls!r}.")
        by = self.options["importance"]
        self.families = [
            ControlFamily.parse(f, by if isinstance(by, str) else "given") for f in _listed(study.controls)
        ]
        if not self.families or len({f.label for f in self.families}) < len(self.families):
            raise ParameterError(f"controls names each family once, at least one; got {study.controls!r}.")
        for family in self.families:
            if family.importance not in (None, "given") and family.importance not in IMPORTANCES:
                raise ParameterError(
                    f"Unknown importance {family.importance!r} in the control family {family.label!r}; choose from "
                    f"{', '.join(IMPORTANCES)}."
                )
            if "map" in family.member.needs and self.maps is None:
                raise ParameterError(
                    f"The control family {family.label!r} needs maps: pass options={{'maps': maps}} or a NetworkSet."
                )
        if isinstance(study.reference, NeuronStatistics):
            self.geometry.check_same(study.reference.geometry, "The reference")
        if study.how not in NEEDS_REFERENCE:
            self.edit(self.masks[0])  # says now what is wrong with the kind of lesion
        self.tasks = [task.prepare(model, tokenizer) for task in as_tasks(study.tasks)]
        check_positions(self.options["positions"], self.tasks)

    @property
    def n_conditions(self):
        """Number of lesions: networks and controls."""
        return len(self.masks) * (1 + sum(f.n_drawn(self.study.n_controls) for f in self.families))

    # -- reference and importance ---------------------------------------------------------------------------------
    @cached_property
    def statistics(self):
        """What the neurons do on the reference text, if the study needs it; read when first asked for."""
        study, reference = self.study, self.study.reference
        if isinstance(reference, NeuronStatistics):
            return reference
        by_name = isinstance(self.options["importance"], str)
        importances = by_name and any(f.importance is not None for f in self.families)
        if not importances and study.how not in NEEDS_REFERENCE:
            return None
        return neuron_statistics(
            self.model,
            self.tokenizer,
            "demo" if reference is None else reference,
            site=self.geometry.site,
            n_samples=1000 if study.how == "resample" else 0,
            random_state=self.seed,
        )

    def importance(self, family):
        """Values that a family matches or ranks by, or None."""
        given = self.options["importance"]
        if family.importance is None:
            return None
        if family.importance == "given":
            given = np.asarray(given, dtype=float)
            if given.shape != (self.geometry.n_neurons,):
                raise ParameterError(f"importance needs {self.geometry.n_neurons} values; got shape {given.shape}.")
            return given
        return self.statistics.importance(family.importance)

    # -- conditions -----------------------------------------------------------------------------------------------
    @cached_property
    def conditions(self):
        """All lesions of the study, ``(family, network, draw, mask)``; the networks come first, without a family."""
        conditions = [(None, k, 0, mask) for k, mask in enumerate(self.masks)]
        for number, family in enumerate(self.families):
            importance = self.importance(family)
            for k, mask in enumerate(self.masks):
                for draw in range(family.n_drawn(self.study.n_controls)):
                    # a permutation is shared by all networks, so that their overlaps survive it
                    seed = [self.seed, number, 0 if family.member.shared else k + 1, draw]
                    values = draw_control(
                        family.name,
                        mask.values,
                        mask.geometry,
                        seed,
                        importance=importance,
                        map=None if self.maps is None else np.abs(self.maps[k]),
                        n_nearest=self.options["n_nearest"],
                    )
                    conditions.append((family, k, draw, NeuronMask(values, self.geometry)))
        return conditions

    def edit(self, mask):
        """The lesion of a condition."""
        options = {name: self.options[name] for name in ("value", "strength")}
        reference = self.statistics if self.study.how in NEEDS_REFERENCE else None
        return Edit(mask, self.study.how, reference=reference, random_state=self.seed, **options)

    def execute(self, progress, checkpoint):
        """Item values of every task, ``(1 + n_conditions, n_items)`` each; row 0 is the intact model."""
        edits = [self.edit(mask) for *_, mask in self.conditions]
        return self.runner.run(self.tasks, edits, progress=progress, checkpoint=checkpoint)

    # -- tables ---------------------------------------------------------------------------------------------------
    def tables(self, values):
        """The items of the networks, and the effects of the controls."""
        items, draws = [], []
        facts = [self._facts(condition) for condition in self.conditions]
        for task, value in zip(self.tasks, values):
            effects = value[1:] - value[0]
            for label, members in task.groups.items():
                weights = task.weights[members]
                means = mean_over_items(effects[:, members], weights)
                for k, mask in enumerate(self.masks):
                    items.append(
                        pd.DataFrame(
                            {
                                "network": mask.name,
                                "task": label,
                                "item": [task.items[i] for i in members],
                                "kind": [task.kinds[i] for i in members],
                                "weight": weights,
                                "intact": value[0, members] * (task.sign if label == task.name else 1.0),
                                "effect": effects[k, members],
                            }
                        )
                    )
                draws += [{**fact, "task": label, "effect": means[c]} for c, fact in enumerate(facts) if fact]
                draws += self._others(label, means)
        items = pd.concat(items, ignore_index=True)
        items["kind"] = kinds_or_none(items["kind"])
        return items, pd.DataFrame(draws, columns=CONTROL_COLUMNS)

    def _facts(self, condition):
        """What a control is, beside its effect; None for a network."""
        family, k, draw, control = condition
        if family is None:
            return None
        network = self.masks[k]
        ratio = np.nan
        if family.importance or self.statistics is not None:
            by = self.importance(family) if family.importance else self.statistics.importance()
            own = by[network.values].sum()
            ratio = float(by[control.values].sum() / own) if own else np.nan
        return {
            "network": network.name,
            "family": family.label,
            "draw": draw,
            "n_neurons": control.count,
            "overlap": overlap_share(network.values, control.values),
            "importance_ratio": ratio,
        }

    def _others(self, label, means):
        if not any("networks" in f.member.needs for f in self.families):
            return []
        rows = []
        for k, mask in enumerate(self.masks):
            for draw, j in enumerate(j for j in range(len(self.masks)) if j != k):
                other = self.masks[j]
                rows.append(
                    {
                        "network": mask.name,
                        "task": label,
                        "family": "others",
                        "draw": draw,
                        "n_neurons": other.count,
                        "overlap": overlap_share(mask.values, other.values),
                        "importance_ratio": np.nan,
                        "effect": means[j],
                    }
                )
        return rows

    # -- guards and description -----------------------------------------------------------------------------------
    def warn_of_double_dipping(self):
        """Warn where a task's text is one that networks, thresholds or importances come from."""
        sources = {
            "networks": network_texts(self.study.masks, self.masks, self.options["fitted_on"]),
            "importances and reference values": known_texts(getattr(self.statistics, "info", None)),
        }
        self.checked = bool(sources["networks"])
        return warn_of_double_dipping(self.tasks, sources, stacklevel=4)

    def describe(self):
        """What the sidecar says of the study."""
        from .. import __version__
        from ..models.identity import describe_model

        drawn = any(f.member.random for f in self.families)
        n_controls = self.study.n_controls if drawn else len(self.masks) - 1
        statistics = self.statistics
        return {
            "llmbrain": __version__,
            "model": describe_model(self.model),
            "geometry": self.geometry.to_dict(),
            "lesion": {
                "how": self.study.how,
                "value": _plain(self.options["value"]),
                "strength": self.options["strength"],
                "positions": _rule(self.options["positions"]),
            },
            "families": {f.label: f.description for f in self.families},
            "n_controls": int(self.study.n_controls),
            "alternative": self.options["alternative"],
            "interval": {"level": self.options["level"], "n_bootstrap": self.options["n_bootstrap"], "over": "items"},
            "correction": "FDR (Benjamini-Hochberg) over the networks of one task and family",
            "random_state": self.seed,
            "tasks": {t.name: {"unit": t.unit, "n_items": len(t.items), **_public(t.info)} for t in self.tasks},
            "reference": _public(statistics.info) | {"n_tokens": statistics.n_tokens} if statistics else None,
            "double_dipping_checked": self.checked,
            "power": power_note(n_controls, len(self.masks), alternative=self.options["alternative"]),
            "mode": self.runner.mode,
            "autocast": self.runner.autocast,
            "counts_per_layer": {m.name: m.counts_per_layer.tolist() for m in self.masks},
        }


def named_masks(masks, maps=None):
    """Take the masks of a study, and their maps, from a list of masks or a NetworkSet.

    Parameters
    ----------
    masks : NeuronMask, list of NeuronMask, or NetworkSet
        A NetworkSet is cut at the threshold of its ``info`` (:meth:`llmbrain.NetworkSet.set_threshold`), or at 3.
    maps : array of shape (n_networks, n_neurons), optional

    Returns
    -------
    masks : list of NeuronMask
        Each with a name of its own, none of them empty.
    maps : array or None
    """
    if hasattr(masks, "masks") and hasattr(masks, "z"):  # a NetworkSet
        maps = masks.z if maps is None else maps
        masks = masks.masks(masks.info.get("threshold") or THRESHOLD)
    masks = list(masks) if isinstance(masks, (list, tuple)) else [masks]
    if not masks or not all(isinstance(m, NeuronMask) for m in masks):
        raise MaskError("A lesion study needs a list of NeuronMask, at least one, e.g. networks.masks(threshold=3.0).")
    named = [
        m if m.name else NeuronMask(m.values, m.geometry, f"network-{i + 1:02d}", m.info) for i, m in enumerate(masks)
    ]
    names = [m.name for m in named]
    if len(set(names)) < len(names):
        raise MaskError(f"Networks need different names; got {names}.")
    empty = [m.name for m in named if not m.count]
    if empty:
        raise MaskError(f"Empty masks: {', '.join(empty)}. Lower the threshold, or leave these networks out.")
    if maps is not None and np.shape(maps) != (len(named), named[0].geometry.n_neurons):
        raise ParameterError(f"maps has the shape {np.shape(maps)}; a map for each of {len(named)} masks is needed.")
    return named, maps


def _listed(controls):
    # ("layer", "importance") alone is one family, though it is a tuple of strings
    if controls is None or isinstance(controls, str) or tuple(controls) == ("layer", "importance"):
        return [controls]
    return list(controls)


def _rule(positions):
    return positions if isinstance(positions, str) else getattr(positions, "__name__", "a rule on token ids")


def _public(info):
    return {k: v for k, v in info.items() if k != "document_hashes"}


def _plain(value):
    return value if value is None or np.ndim(value) == 0 else "one value a neuron"

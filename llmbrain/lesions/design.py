"""The design of a lesion study on one model: its networks, control sets, lesions and tasks."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..exceptions import MaskError, ParameterError
from ..geometry import NeuronGeometry
from ..masks import CONTROLS, ControlFamily, NeuronMask, draw_control
from ..parallel import gather, share, world_size
from .context import sites_of
from .dose import dose_axis
from .double_dipping import known_texts, network_texts, warn_of_double_dipping
from .kinds import KINDS, Edit
from .positions import check_positions
from .scoring import Scorer
from .statistics import IMPORTANCES, N_SAMPLES, NeuronStatistics, neuron_statistics
from .tasks import as_tasks


@dataclass(frozen=True, eq=False)
class Condition:
    """One lesion of a study."""

    network: int  # position of the network in the study
    mask: NeuronMask  # the lesioned neurons: the network, or a control of it
    family: ControlFamily = None  # None for a network itself
    draw: int = 0  # number of the control
    dose: float = None  # in studies over doses


class Design:
    """A study applied to a model. Creating it checks everything that can be checked without a long computation."""

    def __init__(self, study, model, tokenizer, options):
        self.study, self.model, self.tokenizer, self.options = study, model, tokenizer, options
        self.seed = checked_seed(study.random_state)
        self.axis = None if options.doses is None else dose_axis(options.doses)
        self.how = study.how if self.axis is None or self.axis.how is None else self.axis.how
        self.alternative = options.alternative or KINDS[self.how].alternative
        self.masks, self.maps = named_masks(study.masks, options.maps)
        self.geometry = self.masks[0].geometry
        self.sites = sites_of(model, self.masks[0], check_model=options.check_model)
        passes = {name: getattr(options, name) for name in ("max_batch_tokens", "mode", "autocast", "positions")}
        self.scorer = Scorer(model, tokenizer, self.sites, **passes)
        self.bootstrap = {"n_draws": options.n_bootstrap, "level": options.level, "random_state": self.seed}
        self.families = self._checked_families()
        if isinstance(study.reference, NeuronStatistics):
            self.geometry.check_same(study.reference.geometry, "The reference")
        if not KINDS[self.how].reference:  # with a reference, statistics have to be computed first
            self.edit(Condition(0, self.masks[0], dose=None if self.axis is None else self.axis.doses[0]))
        tasks = as_tasks(study.tasks)
        if self.axis is not None and len(tasks) > 1:
            raise ParameterError(f"A study over doses has one task; got {len(tasks)}.")
        self.tasks = [task.prepare(model, tokenizer) for task in tasks]
        check_positions(options.positions, self.tasks)
        if self.axis is not None and self.axis.member.resizes and self.maps is None:
            raise ParameterError(
                f"Doses of {self.axis.over!r} need the maps of the networks: options={{'maps': maps}} or a NetworkSet."
            )

    def _checked_families(self):
        study, least = self.study, 1 if self.axis is None else 0
        if isinstance(study.n_controls, bool) or not isinstance(study.n_controls, (int, np.integer)):
            raise ParameterError(f"n_controls must be a whole number; got {study.n_controls!r}.")
        if study.n_controls < least:
            raise ParameterError(f"n_controls must be at least {least}; got {study.n_controls}.")
        by = self.options.importance if isinstance(self.options.importance, str) else "given"
        families = [ControlFamily.parse(family, by) for family in _listed(study.controls)]
        if not families or len({f.label for f in families}) < len(families):
            raise ParameterError(f"controls must name at least one family, and each only once; got {study.controls!r}.")
        if self.axis is not None and len(families) > 1:
            raise ParameterError(
                f"A study over doses has one control family; got {len(families)}. Pass controls=['layer+importance']."
            )
        for family in families:
            if family.importance not in (None, "given"):
                IMPORTANCES.check(family.importance)
            if "map" in family.member.needs and self.maps is None:
                raise ParameterError(
                    f"The control family {family.label!r} needs maps: pass options={{'maps': maps}} or a NetworkSet."
                )
            if self.axis is not None and not family.member.random:
                raise ParameterError(f"The control family {family.label!r} has no random draws to follow over doses.")
        return families

    # -- reference and importance ---------------------------------------------------------------------------------
    @cached_property
    def statistics(self):
        """Statistics of the neurons on the reference text, or None if the study does not need them."""
        reference, needed = self.study.reference, KINDS[self.how].reference
        if isinstance(reference, NeuronStatistics):
            return reference
        if not needed and all(family.importance in (None, "given") for family in self.families):
            return None
        text, given = "demo" if reference is None else reference, {"n_samples": N_SAMPLES[needed]}
        given |= {"site": self.geometry.site, "random_state": self.seed}
        return neuron_statistics(self.model, self.tokenizer, text, **given)

    def importance(self, family):
        """Importances that a family matches or ranks by, or None."""
        if family.importance is None:
            return None
        if family.importance != "given":
            return self.statistics.importance(family.importance)
        given = np.asarray(self.options.importance, dtype=float)
        if given.shape != (self.geometry.n_neurons,):
            raise ParameterError(f"importance must have {self.geometry.n_neurons} values; got shape {given.shape}.")
        return given

    # -- conditions -----------------------------------------------------------------------------------------------
    @property
    def n_conditions(self):
        """Number of lesions: networks and controls, at all doses."""
        each = 1 + sum(family.n_drawn(self.study.n_controls) for family in self.families)
        return len(self.masks) * each * (1 if self.axis is None else len(self.axis.doses))

    @cached_property
    def conditions(self):
        """All lesions of the study. Without doses, the networks come first."""
        if self.axis is not None:
            return list(self._conditions_over_doses())
        conditions, planned = [Condition(k, mask) for k, mask in enumerate(self.masks)], []
        for number, family in enumerate(self.families):
            importance = self.importance(family)
            for k, mask in enumerate(self.masks):
                for draw in range(family.n_drawn(self.study.n_controls)):
                    seed = [self.seed, number, 0 if family.member.shared else k + 1, draw]
                    planned.append((k, mask, family, draw, seed, importance))
        return conditions + self._drawn_together(planned)

    def _drawn_together(self, planned):
        """Draw many controls; several processes draw some each, and all have all of them in the end."""
        mine = share(range(len(planned)))
        drawn = [self._control(*planned[i]) for i in mine]
        if world_size() == 1:
            return drawn
        bits = (
            np.packbits([condition.mask.values for condition in drawn], axis=1) if drawn else np.empty((0, 0), np.uint8)
        )
        found = {}
        for record in gather({"numbers": np.asarray(mine, dtype=np.int64), "bits": bits}):
            found |= zip(record["numbers"].tolist(), record["bits"])
        sets = (np.unpackbits(found[i], count=self.geometry.n_neurons).astype(bool) for i in range(len(planned)))
        return [
            Condition(k, NeuronMask(values, self.geometry), family, draw)
            for (k, _, family, draw, *_), values in zip(planned, sets)
        ]

    def _conditions_over_doses(self):
        (family,) = self.families
        importance = self.importance(family)
        for k, mask in enumerate(self.masks):
            for number, dose in enumerate(self.axis.doses):
                own = self.axis.mask_at(mask, None if self.maps is None else self.maps[k], dose)
                yield Condition(k, own, dose=dose)
                for draw in range(self.study.n_controls):
                    # the same set at every dose; a new set where the size changes
                    seed = [self.seed, k, draw, number if self.axis.member.resizes else 0]
                    yield self._control(k, own, family, draw, seed, importance, dose)

    def _control(self, k, mask, family, draw, seed, importance, dose=None):
        # drawn from the sites of the network alone, if the study has others as well
        own = mask.own_sites()
        here = NeuronMask(np.ones(own.geometry.n_neurons, bool), own.geometry).over(self.geometry).values
        given = {
            "importance": None if importance is None else importance[here],
            "map": None if self.maps is None else np.abs(self.maps[k][here]),
            "n_nearest": self.options.n_nearest,
        }
        values = draw_control(family.name, own.values, own.geometry, seed, **given)
        return Condition(k, NeuronMask(values, own.geometry).over(self.geometry), family, draw, dose)

    def edit(self, condition):
        """Return the lesion of a condition as an :class:`~llmbrain.lesions.Edit`."""
        options = {"how": self.how, "value": self.options.value, "strength": self.options.strength}
        if self.axis is not None:
            options |= self.axis.edit_options(condition.dose)
        reference = self.statistics if KINDS[self.how].reference else None
        return Edit(condition.mask, reference=reference, random_state=self.seed, **options)

    def measure(self, progress, checkpoint):
        """Item values of every task, ``(1 + n_conditions, n_items)`` each; row 0 is the intact model."""
        edits = [self.edit(condition) for condition in self.conditions]
        return self.scorer.run(self.tasks, edits, progress=progress, checkpoint=checkpoint)

    def measure_share(self, part, progress, checkpoint):
        """Measure one share of the conditions into its own file beside the checkpoint."""
        edits = [self.edit(condition) for condition in self.conditions]
        self.scorer.run_share(self.tasks, edits, part, progress=progress, checkpoint=checkpoint)

    def warn_of_double_dipping(self):
        """Warn if a task uses text that networks, thresholds or importances come from; return the warnings."""
        sources = {
            "networks": network_texts(self.study.masks, self.masks, self.options.fitted_on),
            "importances and reference values": known_texts(getattr(self.statistics, "info", None)),
        }
        self.checked = bool(sources["networks"])
        return warn_of_double_dipping(self.tasks, sources, stacklevel=4)


def checked_seed(random_state):
    """Return a seed that makes the study repeatable, or raise."""
    if isinstance(random_state, bool) or not isinstance(random_state, (int, np.integer)) or random_state < 0:
        raise ParameterError(
            f"random_state must be a whole number, 0 or more, so that the study can be repeated; got {random_state!r}."
        )
    return int(random_state)


def named_masks(masks, maps=None):
    """Return the masks of a study, with different names and none empty, and their maps or None.

    A NetworkSet is thresholded at its own threshold (:meth:`llmbrain.NetworkSet.set_threshold`).
    """
    if hasattr(masks, "masks") and hasattr(masks, "z"):  # a NetworkSet
        maps = masks.z if maps is None else maps
        masks = masks.masks()
    masks = list(masks) if isinstance(masks, (list, tuple)) else [masks]
    if not masks or not all(isinstance(m, NeuronMask) for m in masks):
        raise MaskError("A lesion study needs a list of NeuronMask, at least one, e.g. networks.masks(threshold=3.0).")
    named = [
        m if m.name else NeuronMask(m.values, m.geometry, f"mask-{i + 1:02d}", m.info) for i, m in enumerate(masks)
    ]
    names = [m.name for m in named]
    if len(set(names)) < len(names):
        raise MaskError(f"Networks need different names; got {names}.")
    empty = [m.name for m in named if not m.count]
    if empty:
        raise MaskError(f"Empty masks: {', '.join(empty)}. Lower the threshold, or leave these networks out.")
    for m in named[1:]:
        for site in set(m.geometry.site_names) & set(named[0].geometry.site_names):
            named[0].geometry.of_site(site).check_same(m.geometry.of_site(site), f"The mask {m.name}")
    geometry = NeuronGeometry.join(*(m.geometry for m in named))
    named = [m.over(geometry) for m in named]
    if maps is not None and np.shape(maps) != (len(named), named[0].geometry.n_neurons):
        raise ParameterError(f"maps has shape {np.shape(maps)}; one map for each of {len(named)} masks is needed.")
    return named, maps


def _listed(controls):
    if controls is None or isinstance(controls, str):
        return [controls]
    if not isinstance(controls, (list, tuple)):
        raise ParameterError(f"controls={controls!r} must be a family or a list of families: {', '.join(CONTROLS)}.")
    # ("layer", "importance") alone is one family, although it is a tuple of strings
    return [controls] if "+".join(map(str, controls)) in CONTROLS else list(controls)

"""Measurements of a dense model on calibration text, each made once and shared by all recipes that read it."""

import hashlib
from functools import cached_property, partial

import numpy as np
import torch

from ..exceptions import GeometryMismatchError
from ..models.inputs import input_device, longest_context
from ..models.surgery import prunable_attentions, prunable_mlps
from ..parallel import alone
from ..text import describe_bos
from .allocation import ALLOCATIONS, check_counts, round_counts
from .allocation.curves import PROBED, measure_curves
from .allocation.probe import KEPT_VALUES
from .allocation.trial import ROUGH, TRIED, measure_cuts, most_probed
from .budget import count_parameters, layer_floors
from .calibration import calibration_windows, group_blocks, n_calibration_tokens, split_windows, thin_out
from .cut import follows_dense
from .heads import HEAD_BUDGETS, HEAD_SCORES, HEAD_UNITS, measure_heads, survey_heads
from .published import find_networks
from .recipe import describe_networks, networks_id
from .scores import SCORES, needs_covariance, reads_networks, score_neurons
from .survey import TOKEN_WEIGHTS, survey
from .walk import Walk


class Measurements:
    """A dense model, its calibration text, and everything measured on them so far.

    The model is not changed (while an allocation is measured, its layers are exchanged and put back).
    ``progress(what, total)`` returns a function to call after every step.
    """

    def __init__(self, model, tokenizer, calibration, progress=None):
        self.model, self.tokenizer, self.calibration = model, tokenizer, calibration
        self.parts = prunable_mlps(model)
        self.sizes = [p.size for p in self.parts]
        self.device = input_device(model)
        self.progress = progress or (lambda what, total: None)
        self.expected = []  # what other recipes will read: one walk then measures all of it
        self.known, self._functions = {}, {}

    @cached_property
    def counts(self):
        """Neurons, parameters and bytes of the dense model."""
        return count_parameters(self.model, self.parts)

    @cached_property
    def attention(self):
        """The attention of every layer."""
        return prunable_attentions(self.model)

    def of(self, recipe, random_state=0):
        """Return what one recipe reads."""
        return Measured(self, recipe, random_state)

    def once(self, key, measure):
        """Return the result for a key, which is measured the first time."""
        if key not in self.known:
            self.known[key] = measure()
        return self.known[key]

    def score_key(self, score):
        """Identify a score that reads no networks: by name, content, or function."""
        if isinstance(score, str):
            return score
        if callable(score):
            self._functions[id(score)] = score  # keeps it alive, so that no other function gets its id
            return "function", id(score)
        digest = hashlib.sha256()
        for layer in score:
            values = np.ascontiguousarray(layer, dtype=np.float64)
            digest.update(str(values.shape).encode())
            digest.update(values)
        return "numbers", digest.hexdigest()

    def split_maps(self, networks):
        """Split given maps into layers, after checking that they fit the model."""
        if isinstance(getattr(networks, "maps", None), list):
            widths = [m.shape[1] for m in networks.maps]
            if widths != self.sizes:
                raise GeometryMismatchError(
                    f"The networks have layers of {widths} neurons, this model {self.sizes}. Find them on this model."
                )
            return [m.double() for m in networks.maps]
        values = np.asarray(networks.z if hasattr(networks, "z") else networks, dtype=np.float64)
        values = values[None] if values.ndim == 1 else values
        if values.ndim != 2 or values.shape[1] != sum(self.sizes):
            raise GeometryMismatchError(
                f"The networks have maps of shape {values.shape}; this model has {sum(self.sizes)} MLP neurons in "
                f"{len(self.sizes)} layers. Find the networks at the site 'mlp' of this model."
            )
        return [torch.as_tensor(m) for m in np.split(values, np.cumsum(self.sizes)[:-1], axis=1)]


class Measured:
    """What one recipe reads of a dense model, measured when it is first read.

    Registered allocations and budgets of heads name what they need among the attributes of this class and the options
    of the recipe.
    """

    def __init__(self, shared, recipe, random_state=0):
        options = recipe.options
        context = min(options.context, longest_context(shared.model, 2048))
        self.recipe, self.options = recipe, options.with_(context=context)
        self.shared, self.random_state = shared, int(random_state)
        self.model, self.parts, self.sizes = shared.model, shared.parts, shared.sizes
        self.progress = shared.progress
        self.weighting = TOKEN_WEIGHTS[options.token_weights]
        self._text = (context, options.max_tokens, options.bos)
        # Two recipes with the same of these read the same statistics.
        self.reading = (*self._text, options.batch_size, options.token_weights)

    def give(self, member):
        """Values of what a registered member needs."""
        return [getattr(self.options if hasattr(self.options, n) else self, n) for n in member.needs]

    # -- text and networks --------------------------------------------------------------------------------------
    @property
    def windows(self):
        """Calibration windows of token ids."""
        context, max_tokens, bos = self._text
        cut = partial(calibration_windows, context=context, max_tokens=max_tokens, bos=bos)
        return self.shared.once(("windows", *self._text), lambda: cut(self.shared.tokenizer, self.shared.calibration))

    @property
    def bos(self):
        """The leading special tokens of the calibration windows as one string, or "none"."""
        if self.shared.tokenizer is None:  # windows of token ids, for a model without a tokenizer
            return "none"
        return describe_bos(self.shared.tokenizer, self.options.bos)

    @property
    def blocks(self):
        """Calibration windows in blocks."""
        size = self.options.batch_size
        return self.shared.once(self._blocks_key, lambda: group_blocks(self.windows, size, self.options.context))

    @property
    def _blocks_key(self):
        return "blocks", *self._text, self.options.batch_size

    @cached_property
    def _networks_key(self):
        networks, own = self.recipe.networks, networks_id(self.recipe.networks)
        if not isinstance(networks, str):
            return "networks", own
        return "networks", own, *self._text, self.random_state, self.options.network_tokens

    @property
    def maps(self):
        """Maps of networks over the neurons of each layer, found when they are first read; None without networks."""
        return None if self.recipe.networks is None else self._found[0]

    @property
    def _found(self):
        return self.shared.once(self._networks_key, self._find)

    def _find(self):
        networks = self.recipe.networks
        if not isinstance(networks, str):
            return self.shared.split_maps(networks), None
        with alone():  # every process finds the same ones
            found = find_networks(
                networks, self.model, self.shared.tokenizer, self.windows, context=self.options.context,
                random_state=self.random_state, max_tokens=self.options.network_tokens,
                progress=self.progress("networks", len(self.parts)),
            )  # fmt: skip
        return self.shared.split_maps(found), found.info

    def describe_networks(self):
        """The networks as plain values, and whether the recipe reads them; None without networks."""
        read = self.recipe.reads_networks
        _, info = self.shared.known.get(self._networks_key, (None, None))
        found = describe_networks(self.recipe.networks, info)
        return found and {**found, "read": read}

    # -- neurons ------------------------------------------------------------------------------------------------
    def survey(self, score=None, schur=False):
        """Scores (and Schur residuals) of all layers, from one walk of the dense model."""
        score = self.recipe.score if score is None else score
        known, key = self.shared.known, self._survey_key(score)
        if key not in known or (schur and known[key][0].sensitivity is None):
            own = (self._blocks_key, self.random_state)
            alike = [m for m in self.shared.expected if (m._blocks_key, m.random_state) == own]
            awaited = {m._survey_key(s): (s, m) for m in alike for s in (m.recipe.score, m.recipe.allocating_score)}
            wanted = {key: (score, self), **{k: v for k, v in awaited.items() if k not in known}}
            first = key not in known
            self._measure(wanted, schur or (first and any(m._needs_schur for m in alike)))
        return known[key]

    @property
    def _needs_schur(self):
        allocation = self.recipe.allocation
        return isinstance(allocation, str) and "schur_residuals" in ALLOCATIONS[allocation].needs

    def _survey_key(self, score):
        if reads_networks(score):
            return "survey", *self.reading, score, self._networks_key
        seed = self.random_state if isinstance(score, str) and SCORES[score].random else None
        return "survey", *self.reading, self.shared.score_key(score), seed

    def _measure(self, wanted, schur):
        """Measure several scores in one walk of the dense model."""
        walk = Walk(self.model, self.blocks)
        self.shared.once("walk checked", walk.check)
        scores = {
            key: partial(
                score_neurons, score, maps=m.maps if reads_networks(score) else None, random_state=m.random_state
            )
            for key, (score, m) in wanted.items()
        }
        streams = {} if self.streams is None and self._keeps_streams else None
        found = survey(
            walk, self.parts, scores, full=any(needs_covariance(s) for s, _ in wanted.values()), schur=schur,
            weightings={key: m.weighting for key, (_, m) in wanted.items()}, streams=streams,
            progress=self.progress("survey", len(self.parts)),
        )  # fmt: skip
        self.shared.known.update(found)
        if streams is not None:
            self.shared.known["streams", self._blocks_key] = streams

    @property
    def _keeps_streams(self):
        """Whether the cut of this or an awaited recipe reads the dense streams, and they are few enough to be kept."""
        alike = [m for m in (self, *self.shared.expected) if m._blocks_key == self._blocks_key]
        n_values = sum(block.ids.numel() for block in self.blocks) * self.model.config.get_text_config().hidden_size
        few = n_values * len(self.parts) <= KEPT_VALUES
        return few and any(follows_dense(m.recipe.compensation, m.options) for m in alike)

    @property
    def streams(self):
        """Residual streams of the dense model after each layer, in a dict by layer; None if they are not kept."""
        return self.shared.known.get(("streams", self._blocks_key))

    @property
    def recipe_scores(self):
        """Scores of the recipe, one array per layer."""
        return [f.score.cpu().numpy() for f in self.survey()]

    @property
    def scores(self):
        """Scores that the allocation reads, one array per layer."""
        return [f.score.cpu().numpy() for f in self.survey(self.recipe.allocating_score)]

    @property
    def stream_powers(self):
        """Power of the residual stream after each layer."""
        return [f.power for f in self.survey(self.recipe.allocating_score)]

    @property
    def schur_residuals(self):
        """Error of each layer that least squares leaves at half removal, over the power of the residual stream."""
        return [f.sensitivity for f in self.survey(schur=True)]

    @property
    def curves(self):
        """Divergence when only one layer is cut, and layers fitted at every width of a search."""
        return self._curves(n_steps=20)

    @property
    def rough_curves(self):
        """Divergence when only one layer is cut, at few widths and on part of the text."""
        return self._curves(**ROUGH, probe=self.curve_tokens)

    @property
    def curve_tokens(self):
        """Most held-out tokens on which rough curves are measured."""
        return most_probed(self.options, self.shared.device, n_calibration_tokens(self.blocks))

    def _curves(self, fit=None, probe=PROBED, **widths):
        key = (*self._curves_key, fit, probe, *widths.items())
        return self.shared.once(key, lambda: self._measure_curves(fit, probe, widths))

    @property
    def _curves_key(self):
        return "curves", self.options.held_out, self._survey_key(self.recipe.score)

    @property
    def _orders(self):
        """Neurons of each layer, best first."""
        return [f.score.double().argsort(descending=True, stable=True) for f in self.survey()]

    def _split(self, fit=None, probe=None):
        """Windows for fitting and windows for measuring, each with a limit on the tokens."""
        sides = split_windows(self.blocks, self.options.held_out)
        return [side if most is None else thin_out(side, most) for side, most in zip(sides, (fit, probe))]

    def _measure_curves(self, fit, probe, widths):
        return measure_curves(
            self.model, self.parts, self._orders, *self._split(fit, probe), weighting=self.weighting, **widths,
            progress=self.progress("curves", len(self.parts)),
        )  # fmt: skip

    def measure_cuts(self, candidates):
        """Divergence of cuts with these counts, refitted on part of the text as the recipe says; (n_candidates,)."""
        if len({tuple(counts) for counts in candidates}) == 1:
            return np.zeros(len(candidates))
        return measure_cuts(
            self.model, [self.best(counts) for counts in candidates], *self._split(**TRIED),
            self.recipe.compensation, self.options, progress=self.progress("trial", len(candidates)),
        )  # fmt: skip

    @property
    def floors(self):
        """Fewest neurons that each layer keeps."""
        return layer_floors(self.sizes, self.options)

    def counts(self, n_keep):
        """Neurons that each layer keeps, of ``n_keep`` in total; an array of int, shape (n_layers,)."""
        allocation = self.recipe.allocation
        if not isinstance(allocation, str):
            return check_counts(allocation, self.sizes)
        member = ALLOCATIONS[allocation]
        return member(*self.give(member), n_keep, floors=self.floors, round_to=self.options.round_to)

    def best(self, counts):
        """Neurons with the highest scores, in their order; of equal scores, the lower number is kept."""
        kept = []
        for layer, count in zip(self.survey(), counts):
            order = torch.argsort(-layer.score.double(), stable=True)[: int(count)]
            kept.append(order.sort().values.cpu().numpy())
        return kept

    # -- heads --------------------------------------------------------------------------------------------------
    @property
    def _ordered_heads(self):
        """Scores of the units of heads of each layer, rising, and the query heads of each unit."""
        name = self.recipe.head_score
        key = ("heads", *self.reading, name, self.random_state if HEAD_SCORES[name].random else None)
        scores = self.shared.once(key, lambda: self._survey_heads(name))
        return [unit.order(s) for unit, s in zip(self._units, scores)]

    def _survey_heads(self, name):
        attention = self.shared.attention
        return survey_heads(
            Walk(self.model, self.blocks), attention, name, random_state=self.random_state, weighting=self.weighting,
            progress=self.progress("heads", len(attention)),
        )  # fmt: skip

    @property
    def _units(self):
        return [HEAD_UNITS[self.options.head_unit](part) for part in self.shared.attention]

    @property
    def unit_scores(self):
        """Rising scores of the units of heads of each layer."""
        return [values for values, _ in self._ordered_heads]

    @property
    def unit_costs(self):
        """Parameters of a unit of heads of each layer."""
        return [unit.cost for unit in self._units]

    @property
    def neuron_costs(self):
        """Parameters of a neuron of each layer."""
        return [part.unit_cost for part in self.parts]

    @property
    def head_losses(self):
        """Divergence when only one unit of heads is silenced, for each layer."""
        key = ("head losses", self._curves_key, self.recipe.head_score, self.options.head_unit)
        return self.shared.once(key, self._measure_heads)

    def _measure_heads(self):
        fit, _ = self._split()
        units = [heads for _, heads in self._ordered_heads]
        return measure_heads(
            self.model, self.shared.attention, units, fit, self.curves.probe, weighting=self.weighting,
            progress=self.progress("head losses", len(units)),
        )  # fmt: skip

    def counts_and_heads(self, budget):
        """Numbers of neurons, shape (n_layers,), and query heads to keep when ``budget`` parameters are removed."""
        allocation = self.recipe.allocation
        member = HEAD_BUDGETS[ALLOCATIONS[allocation].heads if isinstance(allocation, str) else "threshold"]
        counts, removed = member(*self.give(member), budget)
        if np.ndim(counts) == 0:
            counts = self.counts(counts)
        elif self.options.round_to > 1:
            n_keep, step = int(counts.sum()), self.options.round_to
            counts = round_counts(counts, self.sizes, n_keep, floors=self.floors, round_to=step)
        heads = []
        for part, units, (_, order) in zip(self.shared.attention, removed, self._ordered_heads):
            gone = {h for unit in units for h in order[unit]}
            heads.append(np.array([h for h in range(part.n_heads) if h not in gone]))
        return counts, heads

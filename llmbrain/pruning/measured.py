"""What a pruning run learns about a dense model, kept so that several ratios and recipes can share it."""

import copy
import hashlib

import numpy as np
import torch

from ..exceptions import GeometryMismatchError, ParameterError
from ..models.inputs import longest_context
from ..models.surgery import attention_writers, prunable_attentions, prunable_mlps
from . import allocation as alloc
from .cut import cut
from .engine import stream_weighting, survey
from .heads import heads_of, joint_by_losses, joint_counts, measure_heads, survey_heads, unit_cost, unit_scores
from .provenance import describe_networks
from .recipe import make_options
from .rules import make_score, needs_maps
from .search import LEVELS, curve_counts, measure_curves, search_counts
from .walk import (
    Walk,
    calibration_blocks,
    calibration_hash,
    calibration_windows,
    n_calibration_tokens,
    split_windows,
)

__all__ = ["Pruner"]

FOUND_ON_TEXT = ("published", "layers", "joint")


class Pruner:
    """A dense model, its calibration windows, and everything measured on them so far.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Left as it is (while an allocation is measured its layers are exchanged and put back).
    tokenizer, calibration
        See :func:`llmbrain.prune`.
    options : Options or dict
    networks : NetworkSet, LayerMaps, array, "published", "layers" or "joint", optional
    random_state : int
    progress : callable, optional
        ``progress(what, total)`` gives a function to be called after every step.
    """

    def __init__(self, model, tokenizer, calibration, options=None, networks=None, random_state=0, progress=None):
        options = make_options(options)
        if isinstance(networks, str) and networks not in FOUND_ON_TEXT:
            raise ParameterError(
                f"networks={networks!r}; give a NetworkSet, maps, or one of {', '.join(map(repr, FOUND_ON_TEXT))}."
            )
        self.options = make_options(options, context=min(options.context, longest_context(model, 2048)))
        self.model, self.tokenizer, self.random_state = model, tokenizer, int(random_state)
        self.parts = prunable_mlps(model)
        self.sizes = [p.size for p in self.parts]
        self.attention = None
        if self.options.heads:
            self.attention = prunable_attentions(model)
        self.windows = calibration_windows(
            tokenizer, calibration, context=self.options.context, n_tokens=self.options.n_tokens
        )
        self.blocks = calibration_blocks(
            tokenizer, self.windows, context=self.options.context, batch_size=self.options.batch_size
        )
        self.weighting = stream_weighting if self.options.token_weights == "stream" else None
        self._wanted = networks
        self._networks, self._found = networks if isinstance(networks, str) else id(networks), {}
        if networks is not None and not isinstance(networks, str):  # maps of another model are refused before any work
            self._found[self._networks] = (self._maps(networks), None)
        self._callables = {}  # keeps them, so that no other one gets their id
        self._progress = progress or (lambda what, total: None)
        self._surveys, self._curves, self._heads, self._head_losses = {}, {}, {}, {}
        # Scores that will be asked for too, and if sensitivities will be: then one walk measures all of them.
        self.expected, self.expects_schur = (), False

    # -- what is measured once ----------------------------------------------------------------------------------
    def survey(self, score, schur=False):
        """Scores (and sensitivities) of all layers, from one walk of the dense model."""
        key = self._key(score)
        known = self._surveys.get(key)
        schur = schur or (self.expects_schur and known is None)
        if known is None or (schur and known[0].sensitivity is None):
            awaited = {self._key(name): name for name in self.expected}
            self._survey({key: score, **{k: s for k, s in awaited.items() if k not in self._surveys}}, schur)
        return self._surveys[key]

    def _key(self, score):
        """What a score is filed under: its name (and the networks that it reads), its numbers, or the function."""
        if needs_maps(score):
            return score, self._networks
        if isinstance(score, str):
            return score
        if callable(score):
            self._callables[id(score)] = score
            return "callable", id(score)
        digest = hashlib.sha256()
        for layer in score:
            values = np.ascontiguousarray(layer, dtype=np.float64)
            digest.update(str(values.shape).encode())
            digest.update(values)
        return "numbers", digest.hexdigest()

    def _survey(self, scores, schur):
        """Measure several scores in one walk of the dense model."""
        walk = Walk(self.model, self.blocks)
        if not self._surveys:
            walk.check()
        made = {
            key: make_score(score, self.maps if needs_maps(score) else None, self.random_state)
            for key, score in scores.items()
        }
        rules = {key: rule for key, (rule, _) in made.items()}
        full = any(needs for _, needs in made.values())
        found = survey(
            walk, self.parts, rules, full=full, schur=schur, weighting=self.weighting,
            progress=self._progress("survey", len(self.parts)),
        )  # fmt: skip
        for layers in found.values():
            for layer, part in zip(layers, self.parts):
                if layer.score.numel() != part.size or not bool(torch.isfinite(layer.score).all()):
                    raise ParameterError(f"The score of layer {part.layer} must be {part.size} finite numbers.")
        self._surveys.update(found)

    def curves(self, score):
        """Divergence of the model when one layer alone is cut, with the refits it was measured on."""
        key = self._key(score)
        if key not in self._curves:
            fit, probe = split_windows(self.blocks, self.options.held_out)
            orders = [f.score.double().argsort(descending=True, stable=True) for f in self.survey(score)]
            self._curves[key] = measure_curves(
                self.model, self.parts, orders, fit, probe, weighting=self.weighting,
                progress=self._progress("curves", len(self.parts)),
            )  # fmt: skip
        return self._curves[key]

    def head_scores(self, score):
        """Scores of the heads of all layers."""
        key = score if isinstance(score, str) else "flap"
        if key not in self._heads:
            walk = Walk(self.model, self.blocks)
            self._heads[key] = survey_heads(
                walk, self.attention, key, random_state=self.random_state, weighting=self.weighting
            )
        return self._heads[key]

    # -- decisions ----------------------------------------------------------------------------------------------
    def floors(self):
        """Fewest neurons of each layer."""
        exempt = {i % len(self.parts) for i in self.options.exempt}
        return np.array(
            [p.size if i in exempt else max(1, round(self.options.floor * p.size)) for i, p in enumerate(self.parts)]
        )

    def counts(self, score, allocation, n_keep):
        """Neurons that each layer keeps."""
        rest = {"floors": self.floors(), "round_to": self.options.round_to}
        if not isinstance(allocation, str):
            counts = np.asarray(allocation, dtype=np.int64)
            if counts.shape != (len(self.sizes),) or (counts < 1).any() or (counts > self.sizes).any():
                raise ParameterError(
                    f"Counts must be {len(self.sizes)} whole numbers from 1 to the width of each layer."
                )
            return counts
        if allocation == "uniform":
            return alloc.uniform(self.sizes, n_keep, **rest)
        if allocation in ("global", "threshold"):
            rule = alloc.global_standardised if allocation == "global" else alloc.global_threshold
            return rule([f.score.cpu().numpy() for f in self.survey(score)], n_keep, **rest)
        if allocation == "networks":
            return alloc.global_threshold([f.score.cpu().numpy() for f in self.survey("network")], n_keep, **rest)
        if allocation in ("power", "schur"):
            exponent = self.options.exponent
            if exponent is None:
                exponent = 1.0 if allocation == "power" else 0.3
            return alloc.sensitivity_counts(
                self._sensitivity(score, allocation), self.sizes, n_keep, exponent=exponent, **rest
            )
        losses, supernet, probe = self.curves(score)
        if allocation == "curves":
            return curve_counts(losses, LEVELS, self.sizes, n_keep, extremes=self.options.extremes, **rest)
        floors = self.floors()
        starts = [alloc.uniform(self.sizes, n_keep, floors=floors)]
        starts += [
            curve_counts(losses, LEVELS, self.sizes, n_keep, floors=floors, extremes=e)
            for e in sorted({0.0, 1.0, self.options.extremes})
        ]
        counts, _, _ = search_counts(
            supernet, probe, starts, n_keep, floors=floors, n_evaluations=self.options.n_evaluations,
            seed=self.random_state,
            progress=self._progress("search", self.options.n_evaluations),
        )  # fmt: skip
        return alloc.round_counts(counts, self.sizes, n_keep, **rest)

    def _sensitivity(self, score, allocation):
        """What removal is taken to cost in each layer, relative to the power of the residual stream there.

        ``power`` sums the variance that neurons write; ``schur`` takes what of it least squares cannot repair.
        """
        if allocation == "schur":
            return [f.sensitivity for f in self.survey(score, schur=True)]
        return [float(f.score.sum()) / f.power for f in self.survey("flap")]

    def joint(self, score, allocation, budget):
        """Neurons and query heads that each layer keeps, for a budget of parameters to remove.

        One threshold for standardised scores says which heads go and how many neurons in all (equal shares of both for
        the allocation "uniform"; for "curves" and "search" the divergence that is measured when a unit of heads alone
        is silenced, against that of neurons); the allocation then spreads these neurons over the layers.
        """
        if isinstance(allocation, str) and allocation in ("curves", "search"):
            return self._joint_measured(score, allocation, budget)
        unit, scores = self.options.head_unit, self.head_scores(score)
        values = [unit_scores(p, s, unit)[0] for p, s in zip(self.attention, scores)]
        costs = [unit_cost(p, unit) for p in self.attention]
        neuron_costs = [p.unit_cost for p in self.parts]
        if isinstance(allocation, str) and allocation == "uniform":
            whole = sum(c * len(v) for c, v in zip(costs, values)) + sum(
                c * n for c, n in zip(neuron_costs, self.sizes)
            )
            share = budget / whole
            removed = np.array([min(round(share * len(v)), len(v) - 1) for v in values])
            left = budget - float(np.dot(removed, costs))
            n_keep = sum(self.sizes) - round(left / float(np.mean(neuron_costs)))
        else:
            neurons = [f.score.cpu().numpy() for f in self.survey(score)]
            counts, removed = joint_counts(neurons, values, neuron_costs, costs, budget, floors=self.floors())
            n_keep = int(counts.sum())
        if not (isinstance(allocation, str) and allocation == "global"):
            counts = self.counts(score, allocation, n_keep)
        elif self.options.round_to > 1:
            counts = alloc.round_counts(
                counts, self.sizes, n_keep, floors=self.floors(), round_to=self.options.round_to
            )
        heads = [heads_of(p, s, r, unit) for p, s, r in zip(self.attention, scores, removed)]
        return counts, heads

    def _joint_measured(self, score, allocation, budget):
        unit, scores = self.options.head_unit, self.head_scores(score)
        steps = [unit_scores(p, s, unit)[1] for p, s in zip(self.attention, scores)]
        losses, _, probe = self.curves(score)
        key = (self._key(score), unit)
        if key not in self._head_losses:
            fit, _ = split_windows(self.blocks, self.options.held_out)
            self._head_losses[key] = measure_heads(
                self.model, self.attention, steps, fit, probe, weighting=self.weighting
            )
        n_keep, removed = joint_by_losses(
            self._head_losses[key], [unit_cost(p, unit) for p in self.attention], losses, LEVELS, self.sizes,
            [p.unit_cost for p in self.parts], budget, floors=self.floors(), extremes=self.options.extremes,
        )  # fmt: skip
        gone = [{h for u in units for h in step[u]} for units, step in zip(removed, steps)]
        heads = [np.array([h for h in range(p.n_heads) if h not in g]) for p, g in zip(self.attention, gone)]
        return self.counts(score, allocation, n_keep), heads

    def best(self, score, counts):
        """The neurons with the highest scores, in their order; ties go to the lower number."""
        kept = []
        for layer, count in zip(self.survey(score), counts):
            order = torch.argsort(-layer.score.double(), stable=True)[: int(count)]
            kept.append(order.sort().values.cpu().numpy())
        return kept

    # -- the cut ------------------------------------------------------------------------------------------------
    def cut(self, kept, compensation, heads=None, inplace=False, options=None):
        """Cut a copy of the model (or the model itself).

        Returns
        -------
        model : transformers.PreTrainedModel
        table : pandas.DataFrame
        """
        options = self.options if options is None else make_options(options, context=self.options.context)
        target = self.model if inplace else copy.deepcopy(self.model)
        attention = None
        if heads is not None:
            attention = prunable_attentions(target)
        elif options.refit_attention:
            attention = attention_writers(target)
        table = cut(
            target,
            self.blocks,
            prunable_mlps(target),
            kept,
            compensation=compensation,
            options=options,
            attention=attention,
            kept_heads=heads,
            progress=self._progress("cut", len(kept)),
        )
        return target, table

    def calibration(self):
        """What tells this calibration from another."""
        return {
            "calibration_tokens": n_calibration_tokens(self.blocks),
            "calibration_hash": calibration_hash(self.blocks),
        }

    # -- networks -----------------------------------------------------------------------------------------------
    @property
    def maps(self):
        """Maps over the neurons of each layer, found when they are first needed; None without networks."""
        if self._wanted is None:
            return None
        if self._networks not in self._found:
            found = self._find(self._wanted)
            self._found[self._networks] = (self._maps(found), found.info)
        return self._found[self._networks][0]

    def describe_networks(self):
        """What the networks are, as plain values; None without networks."""
        _, info = self._found.get(self._networks, (None, None))
        return describe_networks(self._wanted, info)

    @property
    def has_networks(self):
        """Whether there are networks, or the wish to find them."""
        return self._wanted is not None

    def _maps(self, networks):
        """Check maps and cut them into layers."""
        if isinstance(getattr(networks, "maps", None), list):
            widths = [m.shape[1] for m in networks.maps]
            if widths != self.sizes:
                raise GeometryMismatchError(
                    f"The networks have layers of {widths} neurons, this model has {self.sizes}; find them on it."
                )
            return [m.double() for m in networks.maps]
        values = np.asarray(networks.z if hasattr(networks, "z") else networks, dtype=np.float64)
        values = values[None] if values.ndim == 1 else values
        if values.ndim != 2 or values.shape[1] != sum(self.sizes):
            raise GeometryMismatchError(
                f"The networks have maps of shape {values.shape}; this model has {sum(self.sizes)} MLP neurons in "
                f"{len(self.sizes)} layers. Find the networks on the site 'mlp' of this very model."
            )
        return [torch.as_tensor(m) for m in np.split(values, np.cumsum(self.sizes)[:-1], axis=1)]

    def _find(self, how):
        """Networks of the very windows that everything else is measured on."""
        from .published import joint_networks, layer_networks, published_networks

        find = {"published": published_networks, "layers": layer_networks, "joint": joint_networks}[how]
        more = {"n_tokens": self.options.network_tokens} if how == "joint" else {}
        more |= {"context": self.options.context, "random_state": self.random_state}
        return find(self.model, self.tokenizer, self.windows, **more)

"""``prune``: a model and some text in, a smaller model out, with the account of what was done."""

import copy
import time

import numpy as np
import torch

from ..exceptions import GeometryMismatchError, ParameterError
from ..models.identity import describe_model
from . import allocation as alloc
from . import scores as sc
from .accounting import compare_counts, count_parameters, n_units_to_remove
from .calibration import Walk, calibration_blocks, calibration_hash, longest_context, n_calibration_tokens
from .cutting import cut
from .engine import stream_weighting, survey
from .options import check_ratio, check_recipe, make_options
from .probe import LEVELS, curve_counts, measure_curves, search_counts
from .statistics import held_out_share
from .units import find_attention_parts, find_mlp_parts, weight_of

__all__ = ["PrunedModel", "prune"]


class PrunedModel:
    """A smaller model and how it came about.

    Attributes
    ----------
    model : transformers.PreTrainedModel
        The smaller model; an ordinary model in every other way.
    tokenizer : transformers tokenizer
    kept : list of numpy.ndarray of int
        For each layer, the neurons of the dense model that stayed.
    geometry : NeuronGeometry
        Of the dense model's neurons, to which ``kept`` refers.
    table : pandas.DataFrame
        A row a layer.
    scores : list of numpy.ndarray
        For each layer, the score of every neuron of the dense model.
    summary : dict
        Recipe, ratios of neurons and parameters, bytes, calibration hash, seed, versions: plain values.
    """

    def __init__(self, model, tokenizer, kept, geometry, table, scores, summary):
        self.model, self.tokenizer = model, tokenizer
        self.kept, self.geometry = kept, geometry
        self.table, self.scores, self.summary = table, scores, summary

    def __repr__(self):
        s = self.summary
        return (
            f"PrunedModel({s['neurons_removed']:.1%} of the neurons, {s['total_parameters_removed']:.1%} of all "
            f"parameters removed; {s['score']} + {s['allocation']} + {s['compensation']})"
        )

    @property
    def mask(self):
        """The removed neurons as a :class:`llmbrain.NeuronMask`."""
        from ..masks import NeuronMask

        values = np.ones(self.geometry.n_neurons, dtype=bool)
        for i, kept in enumerate(self.kept):
            values[self.geometry.layer_slice(i)][kept] = False
        return NeuronMask(values, self.geometry, name="removed")

    def save_pretrained(self, folder, format="hetero", *, tokenizer=None, results=None):
        """Write the model into a folder.

        Parameters
        ----------
        folder : path-like
        format : {"hetero", "uniform", "padded", "gguf"}
            See :func:`llmbrain.pruning.save_pruned`.
        tokenizer : transformers tokenizer, optional
            Saved beside the model; default the one it was pruned with.
        results : pandas.DataFrame, optional
            Measured table for the model card.

        Returns
        -------
        pathlib.Path
        """
        from .checkpoint import save_pruned

        return save_pruned(self, folder, format=format, tokenizer=tokenizer, results=results)


def prune(
    model,
    tokenizer,
    calibration,
    ratio=0.2,
    *,
    ratio_of="neurons",
    score="flap",
    allocation="schur",
    compensation="affine",
    networks=None,
    options=None,
    random_state=0,
    inplace=False,
    progress=False,
):
    """Remove MLP neurons for good, without retraining.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A dense decoder. Left alone unless ``inplace``.
    tokenizer : transformers tokenizer
    calibration : Corpus, str or list of str
        Text on which statistics are taken. Nothing is chosen on any other text.
    ratio : float
        Share to remove, 0 to below 1; with 0 the model stays bit for bit.
    ratio_of : {"neurons", "decoder", "all"}
        What it is a share of: MLP neurons, parameters of the decoder blocks, or all parameters.
    score : str, list of arrays, or callable
        Which neurons stay: a name of :data:`llmbrain.pruning.SCORES`, one array a layer, or ``score(part, moments)``.
    allocation : str or array of int
        How many stay in each layer: ``uniform``; ``global`` (scores standardised within layers, one threshold);
        ``threshold`` (one threshold on raw scores); ``schur`` (by what least squares cannot repair); or the counts.
    compensation : {"none", "bias", "ridge", "affine"}
        What the kept neurons do for the removed ones.
    networks : NetworkSet or array, shape (n_networks, n_neurons), optional
        Maps for the scores ``network``, ``network_flap`` and ``participation``.
    options : dict, optional
        See :class:`llmbrain.pruning.Options`.
    random_state : int
    inplace : bool
        Prune the model itself instead of a copy.
    progress : bool
        Show a progress bar.

    Returns
    -------
    PrunedModel

    Raises
    ------
    ParameterError
        For a ratio outside [0, 1), unknown names, or budgets that floors and exempt layers make impossible.
    UnsupportedArchitectureError
        For mixtures of experts, quantised or offloaded models.

    Examples
    --------
    >>> import llmbrain as lb
    >>> model, tokenizer = lb.load_model("demo")  # doctest: +SKIP
    >>> pruned = lb.prune(model, tokenizer, lb.load_corpus("demo"), ratio=0.2)  # doctest: +SKIP
    >>> pruned.save_pretrained("smaller")  # doctest: +SKIP
    """
    start = time.perf_counter()
    ratio = check_ratio(ratio, ratio_of)
    check_recipe(score, allocation, compensation)
    options = make_options(options)
    parts = find_mlp_parts(model)
    before = count_parameters(model, parts)
    n_remove = n_units_to_remove(parts, before, ratio, ratio_of)
    maps = None if networks is None else _maps(networks, parts)
    if score in sc.SCORES and sc.SCORES.get(score) == "networks" and maps is None:
        raise ParameterError(f"score={score!r} needs networks=: the result of CanICA or DictLearning, or maps.")
    floors = _floors(parts, options)
    n_keep = sum(p.size for p in parts) - n_remove
    alloc.uniform([p.size for p in parts], n_keep, floors=floors)  # an impossible budget is refused before any work
    options = make_options(options, context=min(options.context, longest_context(model)))
    blocks = calibration_blocks(
        tokenizer, calibration, context=options.context, n_tokens=options.n_tokens, batch_size=options.batch_size
    )
    described = describe_model(model)
    target = model if inplace else copy.deepcopy(model)
    parts = find_mlp_parts(target)
    bar = _bar(progress, 2 * len(parts) if n_remove else 0)
    if n_remove:
        found = _survey(target, blocks, parts, score, allocation, maps, random_state, options, bar)
        counts = _allocate(allocation, found, parts, n_keep, floors, options, target, blocks, random_state)
        kept = [_best(layer.score, count) for layer, count in zip(found, counts)]
        attention = find_attention_parts(target) if options.refit_attention else None
        table = cut(
            target, blocks, parts, kept, compensation=compensation, options=options, attention=attention, progress=bar
        )
        table["sensitivity"] = [np.nan if f.sensitivity is None else f.sensitivity for f in found]
        scores = [f.score.cpu().numpy() for f in found]
    else:
        kept, scores, table = [np.arange(p.size) for p in parts], None, _nothing(parts)
    summary = _summary(described, target, before, blocks, options, kept, table)
    summary.update(
        ratio=ratio, ratio_of=ratio_of, score=_name(score), allocation=_name(allocation), compensation=compensation,
        random_state=random_state, seconds=round(time.perf_counter() - start, 1),
    )  # fmt: skip
    return PrunedModel(target, tokenizer, kept, _geometry(parts, before), table, scores, summary)


def _name(value):
    return value if isinstance(value, str) else "given"


def _bar(progress, total):
    if not progress or not total:
        return None
    from tqdm.auto import tqdm

    bar = tqdm(total=total, desc="prune", unit="layer")
    return lambda: bar.update() and (bar.close() if bar.n >= total else None)


def _floors(parts, options):
    exempt = {i % len(parts) for i in options.exempt}
    return np.array([p.size if i in exempt else max(1, round(options.floor * p.size)) for i, p in enumerate(parts)])


def _best(score, count):
    """The units with the highest scores, in their order; ties go to the lower number."""
    order = torch.argsort(-score.double(), stable=True)[: int(count)]
    return order.sort().values.cpu().numpy()


def _maps(networks, parts):
    """Maps of networks over the neurons of each layer, z-scored over neurons if they come as a NetworkSet."""
    values = np.asarray(networks.z if hasattr(networks, "z") else networks, dtype=np.float64)
    if values.ndim == 1:
        values = values[None]
    sizes = [p.size for p in parts]
    if values.ndim != 2 or values.shape[1] != sum(sizes):
        raise GeometryMismatchError(
            f"The networks have maps of shape {values.shape}; this model has {sum(sizes)} MLP neurons in {len(sizes)} "
            "layers. Find the networks on the site 'mlp' of this very model."
        )
    return [torch.as_tensor(m) for m in np.split(values, np.cumsum(sizes)[:-1], axis=1)]


def make_score(score, maps, random_state):
    """A function ``(part, moments) -> scores`` for a named score, and whether it needs covariances."""
    if callable(score):
        return score, True
    if not isinstance(score, str):
        arrays = [torch.as_tensor(np.asarray(s), dtype=torch.float64) for s in score]
        return (lambda part, m: arrays[part.layer]), False

    def by_name(part, m):
        weight = weight_of(part.down).detach()
        generator = torch.Generator().manual_seed((int(random_state) * 1_000_003 + part.layer) % 2**63)
        return {
            "random": lambda: sc.random(part.size, generator),
            "magnitude": lambda: sc.magnitude(weight),
            "wanda": lambda: sc.wanda_sp(weight, m.second_moment),
            "flap": lambda: sc.flap(weight, m.variance),
            "obs": lambda: sc.obs_column(weight, m.gram),
            "greedy_obs": lambda: sc.greedy_obs(weight, m.covariance),
            "leverage": lambda: sc.ridge_leverage(m.covariance, weight=weight),
            "network": lambda: sc.union_z(maps[part.layer]),
            "network_flap": lambda: sc.network_times(sc.union_z(maps[part.layer]), sc.flap(weight, m.variance)),
            "participation": lambda: sc.network_participation(maps[part.layer], m.covariance, weight.cpu()),
        }[score]()

    return by_name, sc.SCORES[score] == "full" or score == "participation"


def _survey(model, blocks, parts, score, allocation, maps, random_state, options, progress):
    walk = Walk(model, blocks)
    walk.check()
    by_name, full = make_score(score, maps, random_state)
    found = survey(
        walk, parts, by_name, full=full, schur=allocation == "schur",
        weighting=stream_weighting if options.token_weights == "stream" else None, progress=progress,
    )
    for layer, part in zip(found, parts):
        if not bool(torch.isfinite(layer.score).all()) or layer.score.numel() != part.size:
            raise ParameterError(f"The score of layer {part.layer} must be {part.size} finite numbers.")
    return found


def _allocate(allocation, found, parts, n_keep, floors, options, model, blocks, random_state):
    sizes, rest = [p.size for p in parts], {"floors": floors, "round_to": options.round_to}
    scores = [f.score.cpu().numpy() for f in found]
    if not isinstance(allocation, str):
        counts = np.asarray(allocation, dtype=np.int64)
        if counts.shape != (len(parts),) or (counts < 1).any() or (counts > sizes).any():
            raise ParameterError(f"Counts must be {len(parts)} whole numbers from 1 to the width of each layer.")
        return counts
    if allocation == "uniform":
        return alloc.uniform(sizes, n_keep, **rest)
    if allocation == "global":
        return alloc.global_standardised(scores, n_keep, **rest)
    if allocation == "threshold":
        return alloc.global_threshold(scores, n_keep, **rest)
    if allocation == "schur":
        sensitivity = [f.sensitivity for f in found]
        return alloc.sensitivity_counts(sensitivity, sizes, n_keep, exponent=options.exponent, **rest)
    return _measured(allocation, found, parts, n_keep, floors, options, model, blocks, random_state)


def _measured(allocation, found, parts, n_keep, floors, options, model, blocks, random_state):
    """Allocations that measure divergence from the dense model, on windows that the refits have not seen."""
    held = held_out_share(len(blocks), max(options.held_out, 1 / max(len(blocks), 2)))
    fit = [b for b, h in zip(blocks, held) if not h] or blocks
    probe_blocks = [b for b, h in zip(blocks, held) if h] or blocks
    orders = [f.score.double().argsort(descending=True, stable=True) for f in found]
    weighting = stream_weighting if options.token_weights == "stream" else None
    losses, supernet, probe = measure_curves(model, parts, orders, fit, probe_blocks, weighting=weighting)
    sizes = [p.size for p in parts]
    rest = {"floors": floors, "round_to": options.round_to}
    if allocation == "curves":
        return curve_counts(losses, LEVELS, sizes, n_keep, extremes=options.extremes, **rest)
    starts = [alloc.uniform(sizes, n_keep, floors=floors)]
    starts += [curve_counts(losses, LEVELS, sizes, n_keep, floors=floors, extremes=e) for e in (0.0, 0.3, 1.0)]
    counts, value, _ = search_counts(
        supernet, probe, starts, n_keep, floors=floors, n_evaluations=options.n_evaluations, seed=random_state
    )
    return alloc.round_counts(counts, sizes, n_keep, **rest)


def _nothing(parts):
    import pandas as pd

    rows = [{"layer": p.layer, "n_neurons": p.size, "n_kept": p.size, "ridge": np.nan, "error": 0.0} for p in parts]
    return pd.DataFrame(rows)


def _geometry(parts, before):
    from ..geometry import NeuronGeometry

    return NeuronGeometry.from_sizes([p.size for p in parts], site="mlp")


def _summary(described, pruned, before, blocks, options, kept, table):
    import transformers

    from .. import __version__

    return {
        **compare_counts(before, count_parameters(pruned)),
        "base_model": described,
        "calibration_tokens": n_calibration_tokens(blocks),
        "calibration_hash": calibration_hash(blocks),
        "options": options.to_dict(),
        "n_kept": [len(k) for k in kept],
        "layers": table.to_dict("list"),
        "llmbrain": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }

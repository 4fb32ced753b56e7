"""``prune``: a model and some text in, a smaller model out, with the account of what was done."""

import copy
import time

import numpy as np
import torch

from ..exceptions import ParameterError
from ..lesions.context import refuse_lesioned
from ..models.identity import describe_model
from ..models.surgery import prunable_mlps
from . import allocation as alloc
from .budget import compare_counts, count_parameters, n_units_to_remove
from .measured import Pruner
from .provenance import name_recipe
from .recipe import check_ratio, check_recipe, choose_recipe, make_options
from .rules import check_networks, reads_networks, warn_unread
from .timing import measure_speed

__all__ = ["PrunedModel", "prune", "prune_with"]


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
        from .pruned import save_pruned

        return save_pruned(self, folder, format=format, tokenizer=tokenizer, results=results)


def prune(
    model,
    tokenizer,
    calibration,
    ratio=0.2,
    *,
    recipe="best",
    ratio_of="neurons",
    score=None,
    allocation=None,
    compensation=None,
    networks=None,
    options=None,
    random_state=0,
    inplace=False,
    measure=True,
    progress=True,
):
    """Remove MLP neurons for good, without retraining.

    A recipe sets the score, the allocation, the compensation and the options; whatever is given besides it takes the
    place of its part.

    ``best``
        FLAP score, searched allocation, affine least squares, and refits of gate, up and output projections. The
        recipe of the figures that this package states. A model of 135M parameters and 64k calibration tokens take a
        minute or two on a GPU. On a CPU take few tokens: besides the fits, the model passes over the calibration text
        some ninety times.
    ``fast``
        FLAP score, allocation by what the neurons of a layer write to the residual stream, affine least squares with
        tokens that count relative to their stream. About ten times as fast.
    ``flap``, ``wanda``
        The published baselines: FLAP with mean bias, one threshold for all layers; Wanda-sp, uniform, nothing refitted.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A dense decoder. Left alone unless ``inplace``.
    tokenizer : transformers tokenizer
    calibration : Corpus, str or list of str
        Text on which statistics are taken. Nothing is chosen on any other text.
    ratio : float
        Share to remove, 0 to below 1; with 0 the model stays bit for bit.
    recipe : {"best", "fast", "flap", "wanda"}
    ratio_of : {"neurons", "decoder", "all", "bytes", "latency"}
        What it is a share of: MLP neurons, parameters of the decoder blocks, all parameters, bytes of all weights, or
        the time of a forward pass on this machine (:func:`llmbrain.pruning.timing.layer_latency`). A latency becomes a
        number of neurons before any is allotted, as if all layers lost the same share; where times do not fall in
        proportion to widths, an uneven allocation meets it only about: measure with
        :func:`llmbrain.pruning.timing.forward_seconds`.
    score : str, list of arrays, or callable, optional
        Which neurons stay: a name of :data:`llmbrain.pruning.SCORES`, one array a layer, or ``score(part, moments)``.
    allocation : str or array of int, optional
        How many stay in each layer: ``uniform``; ``global`` (scores standardised within layers, one threshold);
        ``threshold`` (one threshold on raw scores); ``power`` (by what the neurons write to the residual stream);
        ``schur`` (by what of it least squares cannot repair); ``curves`` (by the measured divergence of every layer
        cut alone); ``search`` (neurons are moved between layers while the divergence of the whole model falls);
        ``networks`` (one threshold on the maps of networks); or the counts.
    compensation : {"none", "bias", "ridge", "affine"}, optional
        What the kept neurons do for the removed ones.
    networks : NetworkSet, array of shape (n_networks, n_neurons), or {"published", "layers", "joint"}, optional
        Maps for the scores ``network`` and ``network_flap`` and for the allocation ``networks``.
        ``published`` finds those of the paper on the calibration text (:func:`llmbrain.pruning.published_networks`),
        ``layers`` those of each layer's neurons, ``joint`` those of all layers together. They are found on the very
        windows that all else is measured on; ``joint`` on the first ``options["network_tokens"]`` tokens of them.
    options : dict or Options, optional
        See :class:`llmbrain.pruning.Options`. What is not named is left to the recipe. An ``Options`` cannot tell a
        field that was left alone from one set to its default: both are left to the recipe. To set a default against
        the recipe, such as ``{"reconstruct": "none"}`` with ``best``, give a dictionary.
    random_state : int
    inplace : bool
        Prune the model itself instead of a copy.
    measure : bool
        Time the model before and after (a second or two for a small one): tokens per second go into the summary.
    progress : bool
        Show progress bars, if there is a terminal.

    Returns
    -------
    PrunedModel

    Raises
    ------
    ParameterError
        For a ratio outside [0, 1), unknown names, recipes that read networks where there are none, or budgets that
        floors and exempt layers make impossible.
    UnsupportedArchitectureError
        For mixtures of experts, quantised or offloaded models.

    Examples
    --------
    >>> import llmbrain as lb
    >>> model, tokenizer = lb.load_model("demo")  # doctest: +SKIP
    >>> pruned = lb.prune(model, tokenizer, lb.load_corpus("demo"), 0.2, recipe="fast")  # doctest: +SKIP
    >>> pruned.save_pretrained("smaller")  # doctest: +SKIP
    """
    refuse_lesioned(model, "pruned")
    ratio = check_ratio(ratio, ratio_of)
    chosen = choose_recipe(recipe, score, allocation, compensation, options)
    options = make_options(chosen.pop("options"))
    check_recipe(**chosen)
    check_networks(networks, chosen["score"], chosen["allocation"])
    if networks is not None and not reads_networks(chosen["score"], chosen["allocation"]):
        warn_unread()
    check_budget(model, ratio, ratio_of, options)
    pruner = Pruner(model, tokenizer, calibration, options, networks, random_state, _bars(progress))
    pruned = prune_with(pruner, ratio, ratio_of=ratio_of, inplace=inplace, measure=measure, **chosen)
    pruned.summary["recipe"] = name_recipe(recipe, options=options, **chosen)
    return pruned


def check_budget(model, ratio, ratio_of, options):
    """Refuse an impossible budget before any work.

    Raises
    ------
    ParameterError
    """
    parts = prunable_mlps(model)
    if options.heads:
        if ratio_of not in ("decoder", "all", "bytes"):
            raise ParameterError("With heads=True the ratio is one of parameters: ratio_of='decoder' or 'all'.")
        return
    if ratio_of == "latency":  # is measured when it is needed, once
        return
    n_remove = n_units_to_remove(parts, count_parameters(model, parts), ratio, ratio_of)
    n_keep = sum(p.size for p in parts) - n_remove
    exempt = {i % len(parts) for i in options.exempt}
    floors = [p.size if i in exempt else max(1, round(options.floor * p.size)) for i, p in enumerate(parts)]
    alloc.uniform([p.size for p in parts], n_keep, floors=floors)


def prune_with(
    pruner, ratio, *, ratio_of="neurons", score="flap", allocation="schur", compensation="affine", inplace=False,
    measure=False,
):  # fmt: skip
    """Prune with what a :class:`Pruner` has measured already; arguments as for :func:`prune`.

    Returns
    -------
    PrunedModel

    Raises
    ------
    ParameterError
        As :func:`prune`.
    """
    start = time.perf_counter()
    model, parts = pruner.model, pruner.parts
    ratio = check_ratio(ratio, ratio_of)
    check_recipe(score, allocation, compensation)
    check_networks(True if pruner.has_networks else None, score, allocation)
    check_budget(model, ratio, ratio_of, pruner.options)
    before, described = count_parameters(model, parts), describe_model(model)
    heads, scores, n_heads = None, None, None
    speed = measure_speed(model, **_BRIEF) if measure and inplace else None
    if ratio == 0:
        kept = [np.arange(p.size) for p in parts]
        target, table = model if inplace else copy.deepcopy(model), _nothing(parts)
    else:
        if pruner.options.heads:
            budget = ratio * before["decoder_parameters" if ratio_of == "decoder" else "total_parameters"]
            counts, heads = pruner.joint(score, allocation, budget)
            n_heads = [p.n_heads for p in pruner.attention]
        else:
            n_keep = sum(pruner.sizes) - n_units_to_remove(parts, before, ratio, ratio_of, model)
            counts = pruner.counts(score, allocation, n_keep)
        kept = pruner.best(score, counts)
        scores = [f.score.cpu().numpy() for f in pruner.survey(score)]
        target, table = pruner.cut(kept, compensation, heads, inplace)
        table["sensitivity"] = [np.nan if f.sensitivity is None else f.sensitivity for f in pruner.survey(score)]
    summary = _summary(pruner, described, target, before, kept, heads, table)
    summary.update(
        ratio=ratio, ratio_of=ratio_of, score=_name(score), allocation=_name(allocation), compensation=compensation,
        random_state=pruner.random_state, networks=_networks(pruner, score, allocation),
        n_heads_before=n_heads, seconds=round(time.perf_counter() - start, 1),
    )  # fmt: skip
    if measure:
        speed = measure_speed(model, **_BRIEF) if speed is None else speed
        summary["speed"] = _speed(speed, measure_speed(target, **_BRIEF))
    pruned = PrunedModel(target, pruner.tokenizer, kept, _geometry(pruner.sizes), table, scores, summary)
    pruned.kept_heads = heads
    return pruned


_BRIEF = {"batch_sizes": (1,), "prompt": 128, "new_tokens": 8, "repeats": 2}


def _speed(before, after):
    """Tokens per second of two models, one sequence at a time, as plain values."""
    names = ("prefill_tokens_per_second", "decode_tokens_per_second")
    found = {}
    for name in names:
        found[f"{name}_before"] = round(float(before[name].iloc[0]), 1)
        found[f"{name}_after"] = round(float(after[name].iloc[0]), 1)
    return {**found, **{k: str(after[k].iloc[0]) for k in ("device", "dtype")}, "batch_size": 1,
            "prompt": int(after["prompt"].iloc[0]), "new_tokens": _BRIEF["new_tokens"]}  # fmt: skip


def _networks(pruner, score, allocation):
    """The networks that were given, and whether anything read them."""
    found = pruner.describe_networks()
    return found and {**found, "read": reads_networks(score, allocation)}


def _name(value):
    return value if isinstance(value, str) else "given"


def _bars(progress):
    """Progress bars, one a stage."""
    if not progress:
        return None
    from tqdm.auto import tqdm

    def bar(what, total):
        shown = tqdm(total=total, desc=what, disable=None)

        def step():
            shown.update()
            if shown.n >= total:
                shown.close()

        return step

    return bar


def _nothing(parts):
    import pandas as pd

    rows = [{"layer": p.layer, "n_neurons": p.size, "n_kept": p.size, "ridge": np.nan, "error": 0.0} for p in parts]
    return pd.DataFrame(rows)


def _geometry(sizes):
    from ..geometry import NeuronGeometry

    return NeuronGeometry.from_sizes(sizes, site="mlp")


def _summary(pruner, described, pruned, before, kept, heads, table):
    import transformers

    from .. import __version__

    return {
        **compare_counts(before, count_parameters(pruned)),
        "base_model": described,
        **pruner.calibration(),
        "options": pruner.options.to_dict(),
        "n_kept": [len(k) for k in kept],
        "n_heads_kept": None if heads is None else [len(h) for h in heads],
        "layers": table.to_dict("list"),
        "llmbrain": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }

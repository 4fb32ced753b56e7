"""``prune``: a model and some text in, a smaller model out, with the account of what was done."""

import copy
import time

import numpy as np
import torch

from ..exceptions import ParameterError
from ..models.identity import describe_model
from . import allocation as alloc
from . import scores as sc
from .accounting import compare_counts, count_parameters, n_units_to_remove
from .options import check_ratio, check_recipe, make_options
from .pruner import Pruner
from .units import find_mlp_parts

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
    networks : NetworkSet, array of shape (n_networks, n_neurons), or {"published", "layers"}, optional
        Maps for the scores ``network``, ``network_flap`` and ``participation``. ``published`` finds those of the
        paper on
        the calibration text (:func:`llmbrain.pruning.published_networks`), ``layers`` those of each layer's neurons.
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
    ratio = check_ratio(ratio, ratio_of)
    check_recipe(score, allocation, compensation)
    options = make_options(options)
    if isinstance(score, str) and sc.SCORES[score] == "networks" and networks is None:
        raise ParameterError(
            f"score={score!r} needs networks=: the result of CanICA or DictLearning on this model, maps, or "
            f"'published' or "
            "'layers' to find them on the calibration text."
        )
    check_budget(model, ratio, ratio_of, options)
    pruner = Pruner(model, tokenizer, calibration, options, networks, random_state, _bars(progress))
    return prune_with(pruner, ratio, ratio_of=ratio_of, score=score, allocation=allocation, compensation=compensation,
                      inplace=inplace)  # fmt: skip


def check_budget(model, ratio, ratio_of, options):
    """Refuse an impossible budget before any work."""
    parts = find_mlp_parts(model)
    if options.heads:
        if ratio_of == "neurons":
            raise ParameterError("With heads=True the ratio is one of parameters: ratio_of='decoder' or 'all'.")
        return
    n_keep = sum(p.size for p in parts) - n_units_to_remove(parts, count_parameters(model, parts), ratio, ratio_of)
    exempt = {i % len(parts) for i in options.exempt}
    floors = [p.size if i in exempt else max(1, round(options.floor * p.size)) for i, p in enumerate(parts)]
    alloc.uniform([p.size for p in parts], n_keep, floors=floors)


def prune_with(
    pruner, ratio, *, ratio_of="neurons", score="flap", allocation="schur", compensation="affine", inplace=False
):
    """Prune with what a :class:`Pruner` has measured already; arguments as for :func:`prune`.

    Returns
    -------
    PrunedModel
    """
    start = time.perf_counter()
    model, parts = pruner.model, pruner.parts
    before, described = count_parameters(model, parts), describe_model(model)
    heads, scores = None, None
    if ratio == 0:
        kept = [np.arange(p.size) for p in parts]
        target, table = model if inplace else copy.deepcopy(model), _nothing(parts)
    else:
        if pruner.options.heads:
            budget = ratio * before["decoder_parameters" if ratio_of == "decoder" else "total_parameters"]
            counts, heads = pruner.joint(score, allocation, budget)
        else:
            n_keep = sum(pruner.sizes) - n_units_to_remove(parts, before, ratio, ratio_of)
            counts = pruner.counts(score, allocation, n_keep)
        kept = pruner.best(score, counts)
        scores = [f.score.cpu().numpy() for f in pruner.survey(score)]
        target, table = pruner.cut(kept, compensation, heads, inplace)
        table["sensitivity"] = [np.nan if f.sensitivity is None else f.sensitivity for f in pruner.survey(score)]
    summary = _summary(pruner, described, target, before, kept, heads, table)
    summary.update(
        ratio=ratio, ratio_of=ratio_of, score=_name(score), allocation=_name(allocation), compensation=compensation,
        random_state=pruner.random_state, seconds=round(time.perf_counter() - start, 1),
    )  # fmt: skip
    pruned = PrunedModel(target, pruner.tokenizer, kept, _geometry(pruner.sizes), table, scores, summary)
    pruned.kept_heads = heads
    return pruned


def _name(value):
    return value if isinstance(value, str) else "given"


def _bars(progress):
    """Progress bars, one a stage."""
    if not progress:
        return None
    from tqdm.auto import tqdm

    def bar(what, total):
        shown = tqdm(total=total, desc=what)

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

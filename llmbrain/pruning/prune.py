"""Pruning of a model by a recipe."""

import copy
import time
import warnings
from dataclasses import dataclass

import numpy as np
import torch

from ..exceptions import GeometryMismatchError, LLMBrainWarning, ParameterError, check_seed
from ..geometry import NeuronGeometry
from ..models.hooks import evaluating
from ..models.identity import describe_model, other_weights
from ..models.lesioned import refuse_lesioned
from ..models.origin import origin_of
from ..models.wrappers import refuse_compiled, refuse_wrapped
from ..parallel import agree, main_process, world_size
from ..text import as_corpus
from .budget import RATIO_OF, check_budget, check_ratio, compare_counts, compare_speed, count_parameters
from .calibration import calibration_hash, n_calibration_tokens
from .cut import account, cut
from .expected import default_recipe, forecast_in_words
from .formats import FORMATS
from .measured import Measurements
from .pruned import PrunedModel
from .quality import TEST_TOKENS, compare_quality, measure_quality
from .recipe import Recipe
from .recover import N_CHECKS, recover


def prune(
    model,
    tokenizer,
    calibration,
    ratio=0.2,
    *,
    recipe="auto",
    ratio_of="neurons",
    score=None,
    allocation=None,
    compensation=None,
    networks=None,
    options=None,
    recover=None,
    random_state=0,
    format=None,
    test_text=None,
    inplace=False,
    measure=True,
    progress=True,
):
    """Remove MLP neurons permanently; the whole model is trained only if ``recover`` is set.

    The recipes are:

    ``best``
        FLAP score, searched allocation, affine least squares, then gradient steps that fit every two blocks in a row to
        the residual stream of the dense model. The published figures of this package use it. With 64k calibration
        tokens it took 82 seconds for gemma-3-270m on an H100. On a CPU, use few tokens and ``block_steps=0``: the model
        reads the calibration text about ninety times, and as much again for the fits. ``"auto"`` chooses it for a model
        on a GPU.
    ``fast``
        FLAP score, the best of three allocations that are tried on held-out calibration windows, affine least squares
        with tokens weighted relative to their stream. It took 14 seconds for the same work on an H200. ``"auto"``
        chooses it for a model on a CPU.
    ``flap``, ``wanda``
        The published baselines: FLAP with mean bias and one threshold for all layers; Wanda-sp, nothing refitted.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A dense decoder. Not changed unless ``inplace``.
    tokenizer : transformers tokenizer
    calibration : Corpus, str or list of str
        Text on which all statistics are measured. No choice depends on any other text.
    ratio : float
        Share to remove, from 0 to below 1; with 0 the model stays bit-identical.
    recipe : str or Recipe
        ``"auto"``, a name of :data:`llmbrain.pruning.RECIPES`, or a :class:`llmbrain.pruning.Recipe`.
    ratio_of : {"neurons", "decoder", "all", "bytes", "latency"}
        What the ratio is a share of: MLP neurons, parameters of the decoder blocks, all parameters, bytes of all
        weights, or the time of a forward pass on this machine. A latency becomes a number of neurons before they are
        distributed over layers, as if all layers lost the same share; an uneven allocation meets it approximately.
    score, allocation, compensation, networks, options : optional
        Override that part of the recipe, see :class:`llmbrain.pruning.Recipe`. A dictionary of options changes the
        options that it names; an :class:`llmbrain.pruning.Options` replaces all of them.
    recover : float, optional
        Minutes for which the cut model is then trained on what the dense model predicts on the calibration text; by
        default it is not trained.
    random_state : int
    format : {"hetero", "uniform", "padded", "gguf"}, optional
        How the model will be saved. A recipe that the format cannot hold is refused before the work. A format that
        needs one allocation, such as ``uniform``, sets it unless ``allocation`` is given.
    test_text : Corpus, str or list of str, optional
        Other text. Perplexity on its first 2,048 tokens and a short continuation, before and after, go into the
        summary and the model card.
    inplace : bool
        Prune the model itself instead of a copy; an interruption leaves it cut in part.
    measure : bool
        Measure tokens per second of both models in turn (some seconds for a small model), for the summary. Not with
        ``inplace``, where only one model is left.
    progress : bool
        Print the expected time, and show progress bars in a terminal.

    Returns
    -------
    PrunedModel

    Raises
    ------
    ParameterError
        For a ratio outside [0, 1), unknown names, recipes that read networks without ``networks=``, or budgets that
        floors and exempt layers make impossible.
    UnsupportedArchitectureError
        For mixtures of experts, quantised or offloaded models.

    Notes
    -----
    The processes of :mod:`llmbrain.parallel` share the calibration windows, each with a replica of the model. All of
    them return the same smaller model, and the first one writes it.

    Examples
    --------
    >>> import llmbrain as lb
    >>> model, tokenizer = lb.load_model("demo")  # doctest: +SKIP
    >>> pruned = lb.prune(model, tokenizer, lb.load_corpus("demo"), 0.2, recipe="fast")  # doctest: +SKIP
    >>> pruned.save_pretrained("smaller")  # doctest: +SKIP
    """
    writer = FORMATS[format or "hetero"]
    given = {
        "score": score, "allocation": writer.allocation if allocation is None else allocation,
        "compensation": compensation, "networks": networks, "options": options,
        "recover": recover,
    }  # fmt: skip
    refuse_wrapped(model)
    recipe = default_recipe(model) if isinstance(recipe, str) and recipe == "auto" else recipe
    recipe = Recipe.named(recipe).with_(**{name: value for name, value in given.items() if value is not None})
    pruner = Pruner(model, tokenizer, calibration, progress)
    plan = pruner.plan(recipe, ratio, ratio_of, random_state)
    if writer.check is not None:
        writer.check(model, recipe)
    if recipe.networks is not None and not recipe.reads_networks:
        warn_unread()
    if progress and ratio and main_process():
        n_test_tokens = 0 if test_text is None else TEST_TOKENS
        print(forecast_in_words(pruner.measurements.of(recipe, random_state), n_test_tokens, ratio), flush=True)
    before = None if test_text is None else measure_quality(model, tokenizer, test_text)
    pruned = pruner.run(plan, inplace=inplace, measure=measure)
    pruned.format = format or "hetero"
    if before is not None:
        after = measure_quality(pruned.model, tokenizer, test_text)
        pruned.summary["quality"] = compare_quality(before, after, as_corpus(test_text).name)
    return pruned


def warn_unread(stacklevel=3):
    """Warn that networks were given that nothing reads."""
    message = (
        "networks= is given, but nothing reads it: use score='network' or 'network_flap', or allocation='networks'."
    )
    warnings.warn(message, LLMBrainWarning, stacklevel=stacklevel)


@dataclass(frozen=True)
class Plan:
    """What will be done, checked against the model; made by :meth:`Pruner.plan`."""

    recipe: Recipe
    ratio: float
    ratio_of: str
    random_state: int


class Pruner:
    """Prune one model by several recipes and ratios; everything measured is shared.

    Parameters
    ----------
    model, tokenizer, calibration
        See :func:`prune`.
    progress : bool

    Examples
    --------
    >>> pruner = Pruner(model, tokenizer, texts)  # doctest: +SKIP
    >>> smaller = [pruner.prune("fast", ratio) for ratio in (0.2, 0.3, 0.5)]  # doctest: +SKIP
    """

    def __init__(self, model, tokenizer, calibration, progress=False):
        refuse_wrapped(model)
        refuse_compiled(model, "compiled code would not see the neurons that are removed")
        self.measurements = Measurements(model, tokenizer, calibration, _bars if progress else None)
        self.checked = {}

    def prune(self, recipe, ratio, *, ratio_of="neurons", random_state=0, inplace=False, measure=False):
        """Prune by one recipe; arguments as for :func:`prune`."""
        return self.run(self.plan(recipe, ratio, ratio_of, random_state), inplace=inplace, measure=measure)

    def plan(self, recipe, ratio, ratio_of="neurons", random_state=0):
        """Check a recipe and a budget against the model, before any work.

        Raises
        ------
        ParameterError, GeometryMismatchError
        """
        recipe, ratio, shared = Recipe.named(recipe), check_ratio(ratio, ratio_of), self.measurements
        check_seed(random_state)
        refuse_lesioned(shared.model, "pruned")
        if recipe.reads_networks and recipe.networks is None:
            raise ParameterError(
                f"{' + '.join(recipe.names())} reads networks. Pass networks=: a result of CanICA or DictLearning on "
                "this model, maps, or 'published', 'layers' or 'joint' to find them on the calibration text."
            )
        check_budget(shared.model, shared.parts, shared.counts, ratio, ratio_of, recipe.options)
        if recipe.networks is not None and not isinstance(recipe.networks, str):
            shared.split_maps(recipe.networks)
            self._check_source(recipe.networks)
        return Plan(recipe, ratio, ratio_of, int(random_state))

    def _check_source(self, networks):
        """Refuse networks of other weights, once for each set."""
        if id(networks) in self.checked or not hasattr(networks, "info"):
            return
        made = other_weights(self.measurements.model, networks.info.get("model"))
        if made:
            raise GeometryMismatchError(
                f"The networks were found on {made}. Find networks on this model, or pass their maps as an array if "
                "you know that the neurons correspond."
            )
        self.checked[id(networks)] = networks  # kept, so that no other object gets its id

    def expect(self, plans):
        """Announce plans that will be run, so that one walk of the model measures what all of them read."""
        self.measurements.expected = [self.measurements.of(p.recipe, p.random_state) for p in plans]

    def run(self, plan, *, inplace=False, measure=False):
        """Carry out a plan and return a :class:`PrunedModel`."""
        with evaluating(self.measurements.model):
            return self._run(plan, inplace, measure)

    def _run(self, plan, inplace, measure):
        start, shared = time.perf_counter(), self.measurements
        if inplace and plan.recipe.options.recover:
            raise ParameterError("recover= trains on what the dense model predicts, so it needs inplace=False.")
        if world_size() > 1 and plan.recipe.options.recover:
            raise ParameterError(
                f"recover={plan.recipe.options.recover} trains in one process, but {world_size()} were started. Leave "
                "it out, or start one process."
            )
        model, measured = shared.model, shared.of(plan.recipe, plan.random_state)
        before, described = shared.counts, {**describe_model(model), "origin": origin_of(model)}
        if world_size() > 1:
            identity = (plan.recipe.settings_hash(), plan.recipe.describe(), plan.ratio, plan.ratio_of)
            text = calibration_hash(measured.blocks)
            agree("models, recipes or texts", described["weights_hash"], repr(identity), str(plan.random_state), text)
        kept, heads, scores = self._choose(plan, measured)
        target = model if inplace else copy.deepcopy(model)
        table = self._cut(target, plan, measured, kept, heads)
        recovery = self._recover(target, plan, measured)
        summary = {
            **compare_counts(before, count_parameters(target)), "base_model": described,
            **_account(plan, measured), "n_kept": [len(k) for k in kept],
            "n_heads_before": None if heads is None else [p.n_heads for p in shared.attention],
            "n_heads_kept": None if heads is None else [len(h) for h in heads],
            "recovery": recovery, "layers": table.to_dict("list"), **_versions(),
            "seconds": round(time.perf_counter() - start, 1),
        }  # fmt: skip
        if measure and target is not model and main_process():  # others at the same time would disturb it
            summary["speed"] = compare_speed(model, target)
        geometry = NeuronGeometry.from_sizes(shared.sizes, site="mlp")
        return PrunedModel(target, shared.tokenizer, kept, geometry, table, scores, summary, heads)

    def _choose(self, plan, measured):
        """Choose the neurons and heads to keep; returns them and the scores."""
        shared, kind = self.measurements, RATIO_OF[plan.ratio_of]
        if not plan.ratio:
            return [np.arange(n) for n in shared.sizes], None, None
        heads = None
        if measured.options.heads:
            counts, heads = measured.counts_and_heads(plan.ratio * shared.counts[kind.heads])
        else:
            n_remove = kind(shared.model, shared.parts, shared.counts, plan.ratio)
            counts = measured.counts(sum(shared.sizes) - n_remove)
        return measured.best(counts), heads, measured.recipe_scores

    def _cut(self, target, plan, measured, kept, heads):
        """Cut the model and return the table of layers."""
        import pandas as pd

        if not plan.ratio:
            return pd.DataFrame([account(part, part.size, error=0.0) for part in measured.parts])
        table = cut(
            target, measured.blocks, kept, plan.recipe.compensation, measured.options, kept_heads=heads,
            progress=measured.progress("cut", len(kept)), known=measured.survey(), streams=measured.streams,
        )  # fmt: skip
        table["sensitivity"] = [np.nan if f.sensitivity is None else f.sensitivity for f in measured.survey()]
        return table

    def _recover(self, target, plan, measured):
        """Train the cut model if the recipe says so; returns what :func:`recover` measured."""
        minutes = measured.options.recover
        if not minutes or not plan.ratio:
            return None
        return recover(
            target, self.measurements.model, measured.blocks, minutes, held_out=measured.options.held_out,
            random_state=plan.random_state, progress=measured.progress("recover", N_CHECKS),
        )  # fmt: skip


def _account(plan, measured):
    """Describe recipe, budget and calibration as plain values."""
    score, allocation, compensation = plan.recipe.names()
    return {
        "recipe": plan.recipe.describe(), "ratio": plan.ratio, "ratio_of": plan.ratio_of, "score": score,
        "allocation": allocation, "compensation": compensation, "options": measured.options.to_dict(),
        "random_state": plan.random_state, "networks": measured.describe_networks(),
        "calibration_tokens": n_calibration_tokens(measured.blocks),
        "calibration_hash": calibration_hash(measured.blocks), "bos": measured.bos,
    }  # fmt: skip


def _versions():
    import transformers

    from .. import __version__

    return {"llmbrain": __version__, "torch": torch.__version__, "transformers": transformers.__version__}


def _bars(what, total):
    """Make a progress bar for one stage; none is shown without a terminal."""
    from tqdm.auto import tqdm

    shown = tqdm(total=total, desc=what, disable=None)

    def step():
        shown.update()
        if shown.n >= total:
            shown.close()

    return step

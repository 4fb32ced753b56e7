"""Checks of every station's limits, made before the first one starts."""

import math

from ..exceptions import ParameterError
from ..recording.job import RecordingOptions, prepare
from .pruning import pruning_context, pruning_recipes


def check_limits(model, tokenizer, train, test, out, plan):
    """Refuse a run of which a later station would fail, with the error that the station would raise.

    ``train`` is the text to fit on, ``test`` the text to measure on, and ``plan`` the :class:`RunPlan` of all stations.
    """
    from ..lesions import LossTask
    from ..text import text_windows

    options = RecordingOptions(max_tokens=plan.record_tokens, tokens_per_run=plan.tokens_per_run, context=plan.context)
    job = prepare(model, tokenizer, train, options)
    job.study(out)
    _check_networks(plan, job)
    context = pruning_context(model, plan.calibration_tokens, plan.context)
    LossTask(test, max_tokens=plan.lesion_tokens, context=context).prepare(model, tokenizer)
    _check_pruning(model, tokenizer, train, plan, pruning_recipes(model, "published", plan.calibration_tokens, context))
    text_windows(test, tokenizer, context, max_tokens=plan.test_tokens)


def _check_networks(plan, job):
    """Refuse more networks than the data carry, and a threshold that no neuron of a map can exceed."""
    from ..networks.engines.group import check_n_components

    (geometry,) = job.geometries.values()
    n_tokens = [run.n_tokens for run in job.plan.runs]
    check_n_components(plan.n_components, n_tokens, geometry.n_neurons)
    largest = math.sqrt(geometry.n_neurons - 1)  # of one neuron, if the map is constant elsewhere
    if plan.threshold >= largest:
        raise ParameterError(
            f"threshold={plan.threshold}: among {geometry.n_neurons} neurons no |z| exceeds {largest:.1f}. Choose a "
            "lower threshold."
        )


def _check_pruning(model, tokenizer, train, plan, recipes):
    from ..pruning.prune import Pruner

    pruner = Pruner(model, tokenizer, train)
    for recipe in recipes:
        pruner.plan(recipe, plan.ratio, random_state=plan.random_state)

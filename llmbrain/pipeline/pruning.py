"""The station that compares ways to prune the model of a study."""

from ..dataset import as_study, open_result, write_result
from ..geometry import NeuronGeometry
from ..models import describe_model
from ..models.inputs import context_limit
from .sources import current_networks, done_before

# What the pruning table compares, at one ratio and on one calibration text: score, allocation, compensation and how
# statistics are taken. Published rules take them once in the dense model, all tokens alike. Least squares counts each
# token relative to its residual stream: with few tokens, the handful with massive activations would decide the fit.
PRUNING_RECIPES = (
    ("random", "uniform", "none", "one-shot"),
    ("magnitude", "uniform", "none", "one-shot"),
    ("wanda", "uniform", "none", "one-shot"),
    ("flap", "global", "bias", "one-shot"),
    ("network", "uniform", "none", "one-shot"),
    ("network", "uniform", "affine", "one-shot, weighted"),
    ("flap", "power", "affine", "sequential, weighted"),
)
PRUNING_VARIANTS = {
    "one-shot": {"propagation": "one-shot"},
    "one-shot, weighted": {"propagation": "one-shot", "token_weights": "stream"},
    "sequential, weighted": {"propagation": "sequential", "token_weights": "stream"},
}


def compare_pruning(
    study,
    model,
    tokenizer,
    *,
    calibration,
    test_text,
    networks=None,
    ratio=0.2,
    max_tokens=8192,
    max_test_tokens=3000,
    context=None,
    random_state=0,
    resume=False,
):
    """Prune a study's model by several recipes on the same calibration text and write the table into the study.

    Parameters
    ----------
    study : path-like or Study
        With networks; the table is written into it.
    model, tokenizer : transformers model and tokenizer
        The dense model; it is not changed.
    calibration, test_text : Corpus
        Text for the statistics, and other text for the perplexity.
    networks : str, optional
        Name of the networks, needed if the study holds several. The result gets the same name.
    ratio : float
        Share of the MLP neurons that is removed.
    max_tokens, max_test_tokens : int
        Maximum number of tokens to use of each text.
    context : int, optional
        Tokens of a window; by default 512, or the model's maximum.
    random_state : int
        Seed.
    resume : bool
        Return the table that the study holds if it was made with the same settings from the same networks and texts.

    Returns
    -------
    pandas.DataFrame
        See :func:`llmbrain.run_grid`.
    """
    from ..pruning import run_grid

    study = as_study(study)
    name, found = current_networks(study, networks)
    context = pruning_context(model, max_tokens, context)
    recipes = pruning_recipes(model, found.z, max_tokens, context)
    info = {
        "calibration": {"corpus": calibration.name, "hash": calibration.hash, "n_tokens": max_tokens},
        "test_text": {"corpus": test_text.name, "hash": test_text.hash, "n_tokens": max_test_tokens},
        "context": context,
        "random_state": random_state,
        "ratio_of": "neurons",
        "options": {name: getattr(recipes[0].options, name) for name in ("ridge", "context")},
        "variants": PRUNING_VARIANTS,
    }
    sources = {
        "weights": describe_model(model)["weights_hash"], "networks": [found.hash],
        "text": {"calibration": calibration.hash, "test_text": test_text.hash},
    }  # fmt: skip
    settings = {**info, "ratio": ratio, "recipes": PRUNING_RECIPES, "sources": sources}
    if resume and done_before(study, "pruning", name, settings):
        return open_result(study, "pruning", name).read("prune_table")
    measured = {"seeds": (random_state,), "context": context, "max_tokens": max_test_tokens}
    table = run_grid(model, tokenizer, calibration, test_text, recipes, ratios=(ratio,), settings=measured)
    write_result(study, "pruning", name, {"prune_table": table}, info, sources=sources, settings=settings)
    return table


def pruning_context(model, max_tokens, context=None):
    """Tokens of a window while pruning: ``context``, or 512, but no more than the calibration text or the model allow.

    A model that cannot read ``context`` tokens at once raises :class:`ParameterError`.
    """
    return min(context or 512, max_tokens, context_limit(model, context) or 512)


def pruning_recipes(model, networks, max_tokens, context):
    """Make the recipes that the pruning table compares.

    All have the same ridge penalty, by the rule for the calibration size: the text is too short to hold some out.
    """
    from ..pruning import Recipe
    from ..pruning.compensation import default_ridge

    ridge = default_ridge(max_tokens, max(NeuronGeometry.from_model(model).sizes))
    options = {"max_tokens": max_tokens, "ridge": ridge, "context": context}
    return [
        Recipe(*names, {**options, **PRUNING_VARIANTS[variant]}, networks, name=variant)
        for *names, variant in PRUNING_RECIPES
    ]

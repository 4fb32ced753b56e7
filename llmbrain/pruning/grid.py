"""The grid: selection x allocation x compensation x ratio on one calibration set, one table, resumable."""

import hashlib
import time
from itertools import product
from pathlib import Path

import numpy as np

from ..exceptions import DatasetError, ParameterError
from ..files import read_tsv, write_tsv
from ..models.identity import weights_hash
from .prune import prune_with
from .recipe import check_ratio, check_recipe, make_options
from .sharing import Pruners, draws
from .walk import calibration_hash

__all__ = ["GRID_COLUMNS", "kept_overlap", "run_grid"]

GRID_COLUMNS = (
    "score", "allocation", "compensation", "variant", "ratio", "seed", "perplexity", "ratio_to_dense", "parameters",
    "neurons_removed", "decoder_removed", "total_removed", "minimal_pairs", "context", "evaluation_tokens",
    "calibration_tokens", "calibration_hash", "seconds", "ratio_of", "evaluation_hash", "settings_hash",
    "weights_hash",
)  # fmt: skip


def run_grid(
    model,
    tokenizer,
    calibration,
    evaluation,
    *,
    ratios=(0.2, 0.3, 0.5),
    ratio_of="neurons",
    scores=("random", "magnitude", "wanda", "flap"),
    allocations=("uniform", "global"),
    compensations=("none", "bias", "affine"),
    recipes=None,
    seeds=(0, 1, 2),
    networks=None,
    options=None,
    variants=None,
    context=1024,
    max_tokens=None,
    minimal_pairs=None,
    out=None,
    keep=None,
    max_seconds=None,
    progress=True,
):
    """Prune by every recipe and measure every result, on one calibration and one evaluation text.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Dense; left as it is.
    tokenizer : transformers tokenizer
    calibration : Corpus, str or list of str
        Everything is chosen on this text.
    evaluation : Corpus, str or list of str
        Nothing is chosen on this text.
    ratios : sequence of float
    ratio_of : {"neurons", "decoder", "all", "bytes", "latency"}
    scores, allocations, compensations : sequence of str
        All combinations are run.
    recipes : sequence of (score, allocation, compensation) or (score, allocation, compensation, variant), optional
        Run these instead of all combinations.
    seeds : sequence of int
        For recipes that draw at random, the allocation ``search`` among them; the others run with the first one alone.
    networks : optional
        See :func:`llmbrain.prune`.
    options : dict, optional
        Shared by all recipes.
    variants : dict of dict, optional
        Named changes of the options, such as ``{"one-shot": {"propagation": "one-shot"}}``; all combinations run with
        each, or those that the recipes name. ``networks`` among them takes the place of the argument of that name.
    context : int
        Tokens of a window of perplexity.
    max_tokens : int, optional
        Evaluate on the first so many tokens.
    minimal_pairs : str, path or list of MinimalPair, optional
        What :func:`llmbrain.evaluation.minimal_pairs` takes; adds the mean accuracy over phenomena.
    out : path-like, optional
        TSV to which every row is added as soon as it is known; rows that are there already are not run again, if they
        were made with the same options and networks (column ``settings_hash``).
    keep : callable, optional
        ``keep(row, pruned)`` is called with every result.
    max_seconds : float, optional
        Begin no row after so many seconds; call again with the same ``out`` to go on.
    progress : bool
        Say each row.

    Returns
    -------
    pandas.DataFrame
        Columns :data:`GRID_COLUMNS`; the first row is the dense model (score "dense").

    Raises
    ------
    DatasetError
        If ``out`` holds rows of another model, calibration, context or evaluation, or, under the name of a variant of
        this run, rows of other options or networks, or of unknown ones: nothing is compared across them. Also if
        minimal pairs are wanted, and it holds rows without.
    ParameterError
        For unknown names, recipes that read networks where there are none, and budgets that are impossible; before
        anything is measured.
    """
    import pandas as pd

    options, variants = make_options(options), variants or {"": {}}
    plan = _plan(recipes, scores, allocations, compensations, variants, ratios, ratio_of, seeds)
    pruner = Pruners(model, tokenizer, calibration, options, variants, networks, plan)
    pruner.check(ratio_of)
    first = pruner(plan[0][3] if plan else next(iter(variants)), plan[0][5] if plan else 0)
    constants = {
        "context": context, "calibration_hash": calibration_hash(first.blocks), "ratio_of": ratio_of,
        "evaluation_hash": _evaluation_hash(evaluation, max_tokens), "weights_hash": "w" + weights_hash(model),
    }  # fmt: skip
    rows = _known(out, constants)
    _check_settings(rows, pruner, out)
    if minimal_pairs is not None and any(np.isnan(row["minimal_pairs"]) for row in rows):
        raise DatasetError(f"{out} holds results for which no minimal pairs were asked: give another file.")
    done = {_key(row) for row in rows}
    measure = _measure(tokenizer, evaluation, context, max_tokens, minimal_pairs)
    if not any(row["score"] == "dense" for row in rows):
        rows.insert(0, {**_row(("dense", "", "", "", 0.0, 0), model), **constants, **measure(model)})
    dense = rows[0]["perplexity"]
    rows[0]["ratio_to_dense"] = 1.0
    began = time.perf_counter()
    for recipe in plan:
        if recipe in done:
            continue
        start = time.perf_counter()
        if max_seconds is not None and start - began > max_seconds:
            break
        score, allocation, compensation, variant, ratio, seed = recipe
        one = pruner(variant, seed)
        pruned = prune_with(
            one, ratio, ratio_of=ratio_of, score=score, allocation=allocation, compensation=compensation
        )
        row = {**_row(recipe, pruned.model, pruned.summary), **constants, **measure(pruned.model)}
        row["settings_hash"] = pruner.settings(score, allocation, variant)
        row["ratio_to_dense"] = row["perplexity"] / dense
        row["seconds"] = round(time.perf_counter() - start, 1)
        rows.append(row)
        if keep is not None:
            keep(row, pruned)
        if out is not None:
            write_tsv(out, pd.DataFrame(rows, columns=list(GRID_COLUMNS)))
        if progress:
            name = " + ".join(p for p in (score, allocation, compensation, variant) if p)
            print(f"{name}, {ratio:.0%}: {row['perplexity']:.2f} ({row['ratio_to_dense']:.3f} x dense)", flush=True)
    table = pd.DataFrame(rows, columns=list(GRID_COLUMNS))
    if out is not None:
        write_tsv(out, table)
    return table


def _plan(recipes, scores, allocations, compensations, variants, ratios, ratio_of, seeds):
    """Every row to run: (score, allocation, compensation, variant, ratio, seed)."""
    if recipes is None:
        recipes = [(*r, v) for r in product(scores, allocations, compensations) for v in variants]
    plan = []
    for recipe in recipes:
        score, allocation, compensation, variant = (*recipe, next(iter(variants)))[:4]
        check_recipe(score, allocation, compensation)
        if variant not in variants:
            raise ParameterError(f"The recipe {recipe} names the variant {variant!r}; there are {sorted(variants)}.")
        for ratio in ratios:
            ratio = check_ratio(ratio, ratio_of)
            chosen = seeds if draws(score, allocation) else seeds[:1]
            plan += [(score, allocation, compensation, variant, ratio, int(seed)) for seed in chosen]
    return plan


def _key(row):
    return (
        row["score"], row["allocation"], row["compensation"], row["variant"], float(row["ratio"]), int(row["seed"]),
    )  # fmt: skip


def _known(out, constants):
    """Rows of an earlier run."""
    if out is None or not Path(out).is_file():
        return []
    frame = read_tsv(out)
    for name in ("score", "allocation", "compensation", "variant"):
        frame[name] = frame[name].fillna("").astype(str)
    for name, value in constants.items():
        if name not in frame:  # a table of before these were noted
            frame[name] = np.nan
            continue
        known = frame[name].dropna().astype(str)
        if not (known == str(value)).all():
            raise DatasetError(
                f"{out} holds results with another {name} than this run's ({value}). Results are comparable only "
                "with one model, one calibration, one context, one evaluation text and one kind of ratio: give another "
                "file."
            )
    return frame.to_dict("records")


def _check_settings(rows, pruners, out):
    """Refuse rows of an earlier run that go by the name of a variant of this one, and are of something else."""
    for row in rows:
        if row["score"] == "dense" or row["variant"] not in pruners.variants:
            continue
        found = row.get("settings_hash")
        wanted = pruners.settings(row["score"], row["allocation"], row["variant"])
        if wanted is not None and found != wanted:
            name = " + ".join(row[k] for k in ("score", "allocation", "compensation", "variant") if row[k])
            what = "other options or networks than this run's" if isinstance(found, str) else (
                "options and networks that were not noted (no settings_hash)"
            )  # fmt: skip
            raise DatasetError(f"{out} holds results of {name} with {what}: give another file, or name a variant.")


def _evaluation_hash(evaluation, max_tokens):
    """Short hash of the test text, and of how much of it is read."""
    from ..text import as_corpus

    corpus = as_corpus([evaluation] if isinstance(evaluation, str) else evaluation)
    digest = hashlib.sha256(str(max_tokens).encode())
    for document in corpus.documents:
        digest.update(document.text.encode() + b"\0")
    return digest.hexdigest()[:16]


def _row(recipe, model, summary=None):
    row = dict.fromkeys(GRID_COLUMNS, np.nan)
    row.update(zip(("score", "allocation", "compensation", "variant", "ratio", "seed"), recipe))
    row["parameters"] = sum(p.numel() for p in model.parameters())
    if summary is not None:
        row.update(
            neurons_removed=summary["neurons_removed"], decoder_removed=summary["decoder_parameters_removed"],
            total_removed=summary["total_parameters_removed"], calibration_tokens=summary["calibration_tokens"],
        )  # fmt: skip
    return row


def _measure(tokenizer, evaluation, context, max_tokens, minimal_pairs):
    """What is measured on a model."""
    from ..evaluation.perplexity import perplexity_report

    texts = [evaluation] if isinstance(evaluation, str) else evaluation

    def measure(model):
        report = perplexity_report(model, tokenizer, texts, context, max_tokens=max_tokens)
        found = {"perplexity": report["perplexity"], "evaluation_tokens": report["n_tokens"]}
        if minimal_pairs is not None:
            from ..evaluation.minimal_pairs import minimal_pairs as ask

            found["minimal_pairs"] = float(ask(model, tokenizer, minimal_pairs).groupby("uid").correct.mean().mean())
        return found

    return measure


def kept_overlap(kept):
    """Overlap of kept sets between recipes: Jaccard, mean over layers.

    Parameters
    ----------
    kept : dict of list of array of int
        For each recipe the neurons that stay in each layer.

    Returns
    -------
    pandas.DataFrame
        Recipes against recipes.

    Examples
    --------
    >>> kept_overlap({"a": [[0, 1]], "b": [[1, 2]]}).loc["a", "b"].round(3).item()
    0.333
    """
    import pandas as pd

    def jaccard(a, b):
        a, b = set(map(int, a)), set(map(int, b))
        return len(a & b) / max(len(a | b), 1)

    names = list(kept)
    table = [[float(np.mean([jaccard(x, y) for x, y in zip(kept[a], kept[b])])) for b in names] for a in names]
    return pd.DataFrame(table, index=names, columns=names)

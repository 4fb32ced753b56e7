"""The grid: recipes and ratios on one calibration text, measured on another, in one table that can be resumed."""

import contextlib
import hashlib
import json
import time
from dataclasses import dataclass
from itertools import product

import numpy as np

from .. import parallel
from ..exceptions import DatasetError, ParameterError
from ..files import as_path, check_output_table, with_hashes, write_json, write_tsv
from ..models.identity import weights_hash
from ..text import describe_bos
from .allocation import ALLOCATIONS
from .calibration import calibration_hash
from .grid_table import GRID_COLUMNS, GRID_KEYS, as_table, as_text, first_of_each, in_order, key_of, read_rows
from .prune import Pruner, warn_unread
from .recipe import Recipe, networks_id
from .scores import SCORES


@dataclass(frozen=True)
class GridSettings:
    """How the rows of a grid are run and measured.

    Attributes
    ----------
    ratio_of : {"neurons", "decoder", "all", "bytes", "latency"}
    seeds : tuple of int
        For recipes that draw at random, such as the allocation ``search``; the others run with the first one only.
    context : int
        Tokens of a window of perplexity.
    max_tokens : int or None
        Measure on the first ``max_tokens`` tokens of the test text.
    bos : {"auto", True, False}
        Special tokens at the head of every window of the evaluation, see :func:`llmbrain.text.leading_tokens`.
    minimal_pairs : str, path, list of MinimalPair, or None
        What :func:`llmbrain.evaluation.minimal_pairs` takes; adds the mean accuracy over phenomena.
    keep : callable or None
        ``keep(row, pruned)`` is called with every result.
    max_seconds : float or None
        Start no row after this time; to resume, call again with the same ``out``.
    progress : bool
        Print every row, and show progress bars in a terminal.
    share : str or None
        Run only one share of the rows, as one job of an array: ``"3/40"`` is the third of forty. They are written
        beside ``out``; :func:`llmbrain.pruning.merge_grid` puts all shares together.
    """

    ratio_of: str = "neurons"
    seeds: tuple = (0, 1, 2)
    context: int = 1024
    max_tokens: int | None = None
    bos: bool | str = "auto"
    minimal_pairs: object = None
    keep: object = None
    max_seconds: float | None = None
    progress: bool = True
    share: str | None = None


def combine(
    scores=("random", "magnitude", "wanda", "flap"),
    allocations=("uniform", "global"),
    compensations=("none", "bias", "affine"),
    **parts,
):
    """Recipes of every score with every allocation and compensation.

    Parameters
    ----------
    scores, allocations, compensations : sequence of str
    **parts
        Other parts of :class:`Recipe`, the same for all: ``options``, ``networks``, ``name``.

    Returns
    -------
    list of Recipe
    """
    return [Recipe(*names, **parts) for names in product(scores, allocations, compensations)]


def run_grid(
    model, tokenizer, calibration, test_text, recipes=None, *, ratios=(0.2, 0.3, 0.5), out=None, settings=None
):
    """Prune by every recipe and ratio and measure every result.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Dense; not changed.
    tokenizer : transformers tokenizer
    calibration : Corpus, str or list of str
        Every choice is made on this text.
    test_text : Corpus, str or list of str
        No choice is made on this text.
    recipes : list of (Recipe or str), optional
        Default :func:`combine()`. The name of a recipe is its ``variant`` in the table; recipes of one name must share
        their options and networks.
    ratios : sequence of float
    out : path-like, optional
        TSV to which every row is added when it is known. To resume a grid, repeat the call: rows that were made with
        the same options and networks (column ``settings_hash``) are not run again.
    settings : GridSettings or dict, optional

    Returns
    -------
    pandas.DataFrame
        Columns :data:`llmbrain.pruning.grid_table.GRID_COLUMNS`; the first row is the dense model (score "dense").
        With a share, only its rows. Inside :func:`llmbrain.parallel.processes` the rows are shared between the
        processes, and all return the whole table.

    Raises
    ------
    DatasetError
        If ``out`` holds rows of another model, calibration, context or evaluation, rows of a variant of this run with
        other options or networks, or, if minimal pairs are requested, rows without; or if another run writes it now.
    ParameterError
        For unknown names, recipes that read networks without ``networks``, and impossible budgets; before any work.
    """
    settings = settings if isinstance(settings, GridSettings) else GridSettings(**(settings or {}))
    if out is not None:
        check_output_table(out, GRID_KEYS)
    part, mine = parallel.Share.parse(settings.share), parallel.here(settings.share)
    if part is not None and out is None:
        raise ParameterError(f"share={settings.share!r} needs a file for all shares: pass out= (--out).")
    own = out if mine is None or out is None else mine.path(out)
    recipes = combine() if recipes is None else [Recipe.named(r) for r in recipes]
    with parallel.alone():  # every process prunes by itself
        pruner = Pruner(model, tokenizer, calibration, settings.progress)
        plans = _plan(pruner, recipes, ratios, settings)
        constants = _constants(pruner, plans, test_text, settings)
    parallel.check_enough(len(plans), "rows", part)
    parallel.agree("model, texts or settings", json.dumps([constants, list(map(_key, plans))], default=str))
    if out is not None:
        parallel.check_shared_folder(as_path(out).parent)
    each_alone = mine is None and parallel.launched() > 1  # all processes of a launch do the same
    with contextlib.nullcontext() if own is None or each_alone else parallel.only_launch(own):
        earlier = [own] if mine is None or part is not None else [out, *parallel.Share.find(out).values()]
        pairs = settings.minimal_pairs is not None
        rows = [row for file in earlier if file is not None for row in read_rows(file, constants, pairs)]
        rows = first_of_each(rows)
        _check_settings(rows, recipes, out)
        parallel.barrier()  # nobody writes before all have read what is known
        done = set(map(key_of, rows))
        todo = [plan for plan in (plans if mine is None or part is None else mine.of(plans)) if _key(plan) not in done]
        todo = todo if part is not None else parallel.share(todo)
        with parallel.alone():
            rows = _run_rows(pruner, todo, rows, constants, test_text, settings, own)
        if part is not None:
            noted = {"constants": constants, "keys": list(map(_key, plans))}
            write_json(own.with_suffix(".json"), with_hashes(noted))
        elif mine is not None:
            rows = [row for text in parallel.gather_texts(as_text(rows)) for row in json.loads(text)]
            rows = in_order(rows, map(_key, plans))
        table = as_table(rows)
        if own is not None and (mine is None or part is not None or parallel.main_process()):
            write_tsv(own if part is not None else out, table)
            for file in parallel.Share.find(out).values() if part is None and mine is not None else ():
                file.unlink()
    parallel.barrier()
    return table


def _constants(pruner, plans, test_text, settings):
    """Values that are the same in all rows, by column."""
    first = pruner.measurements.of(plans[0].recipe if plans else Recipe())
    return {
        "context": settings.context, "calibration_hash": calibration_hash(first.blocks), "ratio_of": settings.ratio_of,
        "test_hash": _test_hash(test_text, settings.max_tokens),
        "weights_hash": "w" + weights_hash(pruner.measurements.model),
        "bos": describe_bos(pruner.measurements.tokenizer, settings.bos),
    }  # fmt: skip


def _run_rows(pruner, plans, rows, constants, test_text, settings, out):
    """Run plans one after the other and return all rows, the dense model first; each is written when it is known."""
    model, measure = pruner.measurements.model, _measure(pruner.measurements.tokenizer, test_text, settings)
    if not any(row["score"] == "dense" for row in rows):
        rows.insert(0, {**_row(("dense", "", "", "", 0.0, 0), model), **constants, **measure(model)})
    dense = rows[0]["perplexity"]
    rows[0]["ratio_to_dense"] = 1.0
    began = time.perf_counter()
    for plan in plans:
        start = time.perf_counter()
        if settings.max_seconds is not None and start - began > settings.max_seconds:
            break
        pruned = pruner.run(plan)
        row = {**_row(_key(plan), pruned.model, pruned.summary), **constants, **measure(pruned.model)}
        row["settings_hash"] = plan.recipe.settings_hash()
        row["ratio_to_dense"] = row["perplexity"] / dense
        row["seconds"] = round(time.perf_counter() - start, 1)
        rows.append(row)
        if settings.keep is not None:
            settings.keep(row, pruned)
        if out is not None:
            write_tsv(out, as_table(rows))
        if settings.progress:
            name = " + ".join(part for part in _key(plan)[:4] if part)
            factor = f"{row['ratio_to_dense']:.3f} x dense"
            print(f"{name}, {plan.ratio:.0%}: {row['perplexity']:.2f} ({factor})", flush=True)
    return rows


def _plan(pruner, recipes, ratios, settings):
    """Plan every row, with all checks before any work."""
    by_name, networks_of = {}, {}
    for recipe in recipes:
        options = recipe.settings_hash(networks=False)
        same = by_name.setdefault(recipe.name, options) == options
        if recipe.networks is not None:  # a recipe without networks fits beside those with one and the same set
            networks = networks_id(recipe.networks)
            same &= networks_of.setdefault(recipe.name, networks) == networks
        if not same:
            raise ParameterError(
                f"Recipes named {recipe.name!r} have different options or networks. Give each set a name (name=)."
            )
    plans = []
    for recipe in recipes:
        seeds = settings.seeds if recipe.random else settings.seeds[:1]
        plans += [pruner.plan(recipe, ratio, settings.ratio_of, seed) for ratio in ratios for seed in seeds]
    if any(r.networks is not None for r in recipes) and not any(r.reads_networks for r in recipes):
        warn_unread(stacklevel=4)
    pruner.expect(plans)
    return plans


def _key(plan):
    return (*plan.recipe.names(), plan.recipe.name, plan.ratio, plan.random_state)


def _check_settings(rows, recipes, out):
    """Refuse rows of an earlier run that have a variant's name but other settings than this run's."""
    own = {recipe.name: recipe for recipe in sorted(recipes, key=lambda recipe: recipe.networks is not None)}
    for row in rows:
        score, allocation = row["score"], row["allocation"]
        if score == "dense" or row["variant"] not in own:
            continue
        recipe = own[row["variant"]]
        names = {"score": score} if score in SCORES else {}
        names |= {"allocation": allocation} if allocation in ALLOCATIONS else {}
        reads = Recipe(**names).reads_networks
        if reads and recipe.networks is None:  # this run has no networks to compare with
            continue
        if row["settings_hash"] != recipe.settings_hash(networks=reads):
            name = " + ".join(row[k] for k in GRID_KEYS[:4] if row[k])
            raise DatasetError(
                f"{out} holds results of {name} with other options or networks than this run's. Use another file, or "
                "name the recipe."
            )


def _test_hash(test_text, max_tokens):
    """Short hash of the test text and of how much of it is read."""
    from ..text import as_corpus

    corpus = as_corpus([test_text] if isinstance(test_text, str) else test_text)
    digest = hashlib.sha256(str(max_tokens).encode())
    for document in corpus.documents:
        digest.update(document.text.encode() + b"\0")
    return digest.hexdigest()[:16]


def _row(key, model, summary=None):
    row = dict.fromkeys(GRID_COLUMNS, np.nan)
    row.update(zip(GRID_KEYS, key))
    row["parameters"] = sum(p.numel() for p in model.parameters())
    if summary is not None:
        row.update(
            neurons_removed=summary["neurons_removed"], decoder_removed=summary["decoder_parameters_removed"],
            total_removed=summary["total_parameters_removed"], calibration_tokens=summary["calibration_tokens"],
        )  # fmt: skip
    return row


def _measure(tokenizer, test_text, settings):
    """Return a function that measures a model."""
    from ..evaluation.perplexity import perplexity_report

    texts = [test_text] if isinstance(test_text, str) else test_text

    def measure(model):
        report = perplexity_report(
            model, tokenizer, texts, settings.context, max_tokens=settings.max_tokens, bos=settings.bos
        )
        found = {"perplexity": report["perplexity"], "test_tokens": report["n_tokens"]}
        if settings.minimal_pairs is not None:
            from ..evaluation.minimal_pairs import minimal_pairs

            answers = minimal_pairs(model, tokenizer, settings.minimal_pairs, bos=settings.bos)
            found["minimal_pairs"] = float(answers.groupby("uid").correct.mean().mean())
        return found

    return measure


def kept_overlap(kept):
    """Overlap of the kept neurons between recipes: Jaccard index, mean over layers.

    Parameters
    ----------
    kept : dict of list of array of int
        Neurons that each layer keeps, by recipe.

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

"""Commands that make smaller models and measure them."""

from pathlib import Path
from typing import Annotated

import typer

from ..exceptions import ParameterError
from .options import Device, Dtype, Model, Out, Seed, numbers


def prune(
    out: Out,
    model: Model = "demo",
    calibration: Annotated[str, typer.Option(help="Text to calibrate on.")] = "demo",
    ratio: Annotated[float, typer.Option(help="Share to remove, between 0 and 1.")] = 0.2,
    ratio_of: Annotated[
        str, typer.Option(help="neurons, decoder, all, bytes or latency: what the ratio is a share of.")
    ] = "neurons",
    recipe: Annotated[
        str, typer.Option(help="best (of the stated figures, wants a GPU), fast, or the baselines flap and wanda.")
    ] = "best",
    score: Annotated[str | None, typer.Option(help="How neurons are ranked: flap, wanda, random ...")] = None,
    allocation: Annotated[
        str | None, typer.Option(help="How the budget is spread over layers: schur, global, uniform ...")
    ] = None,
    compensation: Annotated[
        str | None, typer.Option(help="What the others do for the removed: none, bias, ridge or affine.")
    ] = None,
    networks: Annotated[
        str | None,
        typer.Option(help="published, layers or joint: found on the calibration text, for scores that read networks."),
    ] = None,
    calibration_tokens: Annotated[int | None, typer.Option(help="Use at most so many tokens.")] = None,
    format: Annotated[str, typer.Option("--format", help="hetero, uniform, padded or gguf.")] = "hetero",
    dtype: Dtype = "float32",
    device: Device = "cpu",
    random_state: Seed = 0,
):
    """Remove MLP neurons for good and save the smaller model."""
    from ..models import load_model
    from ..pruning import prune as prune_
    from ..pruning.pruned import check_format
    from ..pruning.recipe import check_ratio, check_recipe, choose_recipe
    from ..text import load_corpus

    if format == "uniform" and allocation is None:
        allocation = "uniform"
    chosen = {"score": score, "allocation": allocation, "compensation": compensation}
    check_ratio(ratio, ratio_of)
    whole = choose_recipe(recipe, **chosen)
    check_recipe(whole["score"], whole["allocation"], whole["compensation"])
    texts = load_corpus(calibration)
    loaded, tokenizer = load_model(model, dtype=dtype, device=device)
    check_format(loaded, format, **whole)
    options = {} if calibration_tokens is None else {"n_tokens": calibration_tokens}
    pruned = prune_(
        loaded,
        tokenizer,
        calibration=texts,
        ratio=ratio,
        recipe=recipe,
        ratio_of=ratio_of,
        networks=networks,
        options=options,
        random_state=random_state,
        **chosen,
    )
    pruned.save_pretrained(out, format=format, tokenizer=tokenizer)
    for name, value in {**pruned.summary, **pruned.summary["speed"]}.items():
        if not isinstance(value, (list, dict)):
            typer.echo(f"{name}: {value}")
    typer.echo(f"The smaller model is at {out}")


def grid(
    out: Annotated[Path, typer.Option("--out", "-o", help="TSV to write; rows that it holds are not run again.")],
    model: Model = "demo",
    calibration: Annotated[str, typer.Option(help="Text on which everything is chosen.")] = "demo",
    evaluation: Annotated[
        str | None, typer.Option(help="Other text, for perplexity; the demo's held-out part by default.")
    ] = None,
    scores: Annotated[str, typer.Option(help="Separated by commas.")] = "random,magnitude,wanda,flap",
    allocations: Annotated[str, typer.Option(help="Separated by commas.")] = "uniform,global",
    compensations: Annotated[str, typer.Option(help="Separated by commas.")] = "none,bias,affine",
    networks: Annotated[
        str | None,
        typer.Option(help="published, layers or joint: found on the calibration text, for scores that read networks."),
    ] = None,
    ratios: Annotated[str, typer.Option(help="Separated by commas.")] = "0.2,0.3,0.5",
    ratio_of: Annotated[
        str, typer.Option(help="neurons, decoder, all, bytes or latency: what the ratios are shares of.")
    ] = "neurons",
    heads: Annotated[
        bool, typer.Option("--heads", help="Prune attention heads too; needs --ratio-of decoder.")
    ] = False,
    seeds: Annotated[str, typer.Option(help="Of recipes that draw at random, e.g. 0-2 or 0,4.")] = "0-2",
    minimal_pairs: Annotated[
        bool, typer.Option("--minimal-pairs", help="Measure the accuracy on the package's minimal pairs too.")
    ] = False,
    figure: Annotated[Path | None, typer.Option(help="Draw the table into this file (.png, .svg, .pdf).")] = None,
    calibration_tokens: Annotated[int, typer.Option(help="Tokens to calibrate on.")] = 65536,
    evaluation_tokens: Annotated[int | None, typer.Option(help="Tokens to evaluate on.")] = None,
    context: Annotated[int, typer.Option(help="Tokens of context.")] = 1024,
    device: Device = "cpu",
):
    """Compare pruning recipes on one calibration text.

    Every score with every allocation, compensation and ratio, measured as perplexity on other text.
    """
    from ..models import load_model
    from ..pruning import run_grid
    from ..text import load_corpus

    try:
        shares = [float(r) for r in ratios.split(",")]
    except ValueError as error:
        raise ParameterError(f"--ratios must be numbers separated by commas; got {ratios!r}.") from error
    chosen_seeds = numbers("--seeds", seeds)
    if figure is not None:
        _check_figure(figure)
    fit = load_corpus(calibration)
    test = load_corpus("demo", split="heldout") if evaluation in (None, "demo") else load_corpus(evaluation)
    loaded, tokenizer = load_model(model, device=device)
    table = run_grid(
        loaded,
        tokenizer,
        fit,
        test,
        ratios=shares,
        ratio_of=ratio_of,
        seeds=chosen_seeds,
        scores=scores.split(","),
        allocations=allocations.split(","),
        compensations=compensations.split(","),
        networks=networks,
        options={"n_tokens": calibration_tokens, "context": context, "heads": heads},
        context=context,
        max_tokens=evaluation_tokens,
        minimal_pairs="all" if minimal_pairs else None,
        out=out,
    )
    typer.echo(f"The table is at {out}")
    if figure is not None:
        from ..plotting import plot_pruning_grid

        plot_pruning_grid(table, output_file=figure)
        typer.echo(f"The figure is at {figure}")


def _check_figure(path):
    """Refuse a kind of file that cannot be drawn before the work."""
    from matplotlib.backend_bases import FigureCanvasBase

    known = sorted(FigureCanvasBase.get_supported_filetypes())
    if path.suffix.lstrip(".").lower() not in known:
        raise ParameterError(f"--figure {path}: give a file that ends in one of {', '.join(known)}.")


def evaluate(
    model: Annotated[str, typer.Argument(help="'demo', a hub id, a folder (also a pruned one), or a .gguf file.")],
    text: Annotated[str, typer.Option(help="Text to measure on.")] = "demo",
    split: Annotated[str | None, typer.Option(help="Part of the demo corpus or sub-folder of a folder.")] = None,
    context: Annotated[int, typer.Option(help="Tokens of context.")] = 1024,
    dtype: Dtype = "float32",
    device: Device = "cpu",
):
    """Measure token-level perplexity."""
    from ..evaluation import perplexity
    from ..models import load_model
    from ..text import load_corpus

    texts = load_corpus(text, split=split or ("heldout" if text == "demo" else None))
    loaded, tokenizer = load_model(model, dtype=dtype, device=device)
    value = perplexity(loaded, tokenizer, texts, context=context)
    typer.echo(f"perplexity {value:.3f} (token level, {context} tokens of context, {texts.name})")

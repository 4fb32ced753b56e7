"""Commands that prune models and measure the result."""

from pathlib import Path
from typing import Annotated

import typer

from ..exceptions import ParameterError
from .options import Bos, Context, Device, Dtype, Model, Out, OutFile, Ratio, Seed, number, numbers, read_bos

CalibrationTokens = Annotated[int | None, number("Most calibration tokens to use.", least=2)]
Networks = Annotated[
    str | None, typer.Option(help="Networks to find on the calibration text, if needed: published, layers or joint.")
]
RatioOf = Annotated[str, typer.Option(help="What a ratio is a share of: neurons, decoder, all, bytes or latency.")]


def prune(
    out: Out,
    model: Model = "demo",
    calibration: Annotated[str, typer.Option(help="Text to calibrate on.")] = "demo",
    ratio: Ratio = 0.2,
    ratio_of: RatioOf = "neurons",
    recipe: Annotated[str, typer.Option(help="best (needs a GPU), fast, or the baselines flap and wanda.")] = "best",
    score: Annotated[str | None, typer.Option(help="How neurons are ranked: flap, wanda, random, ...")] = None,
    allocation: Annotated[
        str | None, typer.Option(help="How the budget is spread over layers: power, global, uniform, ...")
    ] = None,
    compensation: Annotated[
        str | None, typer.Option(help="How the kept neurons are refitted: none, bias, ridge or affine.")
    ] = None,
    networks: Networks = None,
    calibration_tokens: CalibrationTokens = None,
    bos: Bos = "auto",
    format: Annotated[str, typer.Option("--format", help="hetero, uniform, padded or gguf.")] = "hetero",
    dtype: Dtype = "float32",
    device: Device = "cpu",
    random_state: Seed = 0,
):
    """Remove MLP neurons permanently and save the smaller model."""
    from ..files import check_output_folder
    from ..models import load_model
    from ..pruning import FORMATS, RATIO_OF, Recipe
    from ..pruning import prune as prune_
    from ..pruning.pruned import MARKER
    from ..text import load_corpus

    writer = FORMATS[format]
    RATIO_OF.check(ratio_of)
    given = {
        "score": score, "allocation": allocation or writer.allocation, "compensation": compensation,
        "networks": networks, "n_tokens": calibration_tokens, "bos": read_bos(bos),
    }  # fmt: skip
    chosen = Recipe.named(recipe).with_(**{name: value for name, value in given.items() if value is not None})
    check_output_folder(out, MARKER, inputs=[source for source in (model, calibration) if source != "demo"])
    texts = load_corpus(calibration)
    loaded, tokenizer = load_model(model, dtype=dtype, device=device)
    if writer.check is not None:
        writer.check(loaded, chosen)
    pruned = prune_(
        loaded, tokenizer, calibration=texts, ratio=ratio, recipe=chosen, ratio_of=ratio_of, random_state=random_state
    )
    pruned.save_pretrained(out, format=format, tokenizer=tokenizer)
    for name, value in {**pruned.summary, **pruned.summary["speed"]}.items():
        if not isinstance(value, (list, dict)):
            typer.echo(f"{name}: {value}")
    typer.echo(f"The smaller model is at {out}")


def grid(
    out: OutFile,
    model: Model = "demo",
    calibration: Annotated[str, typer.Option(help="Text to calibrate on.")] = "demo",
    evaluation: Annotated[
        str | None,
        typer.Option(help="Other text, to measure perplexity on; by default held-out demo text."),
    ] = None,
    scores: Annotated[str, typer.Option(help="Separated by commas.")] = "random,magnitude,wanda,flap",
    allocations: Annotated[str, typer.Option(help="Separated by commas.")] = "uniform,global",
    compensations: Annotated[str, typer.Option(help="Separated by commas.")] = "none,bias,affine",
    networks: Networks = None,
    ratios: Annotated[str, typer.Option(help="Separated by commas.")] = "0.2,0.3,0.5",
    ratio_of: RatioOf = "neurons",
    heads: Annotated[
        bool, typer.Option("--heads", help="Prune attention heads too; needs --ratio-of decoder.")
    ] = False,
    seeds: Annotated[str, typer.Option(help="Seeds of recipes that draw at random, e.g. 0-2 or 0,4.")] = "0-2",
    minimal_pairs: Annotated[
        bool, typer.Option("--minimal-pairs", help="Also measure the accuracy on the packaged minimal pairs.")
    ] = False,
    figure: Annotated[Path | None, typer.Option(help="Also draw the table into this file (.png, .svg, .pdf).")] = None,
    calibration_tokens: CalibrationTokens = 65536,
    evaluation_tokens: Annotated[int | None, number("Most evaluation tokens to use.", least=2)] = None,
    context: Context = 1024,
    bos: Bos = "auto",
    device: Device = "cpu",
):
    """Compare pruning recipes on one calibration text.

    Combines every score with every allocation, compensation and ratio, and measures perplexity on other text.
    """
    from ..files import check_output_table
    from ..models import load_model
    from ..pruning import combine, run_grid
    from ..pruning.grid import GRID_KEYS
    from ..text import load_corpus

    try:
        shares = [float(r) for r in ratios.split(",")]
    except ValueError as error:
        raise ParameterError(f"--ratios must be numbers separated by commas; got {ratios!r}.") from error
    chosen_seeds = numbers("--seeds", seeds)
    options = {"n_tokens": calibration_tokens, "context": context, "heads": heads, "bos": read_bos(bos)}
    names = (scores.split(","), allocations.split(","), compensations.split(","))
    recipes = combine(*names, options=options, networks=networks)
    check_output_table(out, GRID_KEYS)
    if figure is not None:
        _check_figure(figure)
    fit = load_corpus(calibration)
    test = load_corpus("demo", split="heldout") if evaluation in (None, "demo") else load_corpus(evaluation)
    loaded, tokenizer = load_model(model, device=device)
    settings = {
        "ratio_of": ratio_of, "seeds": chosen_seeds, "context": context, "max_tokens": evaluation_tokens,
        "minimal_pairs": "all" if minimal_pairs else None, "bos": read_bos(bos),
    }  # fmt: skip
    table = run_grid(loaded, tokenizer, fit, test, recipes, ratios=shares, out=out, settings=settings)
    typer.echo(f"The table is at {out}")
    if figure is not None:
        from ..plotting import plot_pruning_grid

        plot_pruning_grid(table, output_file=figure)
        typer.echo(f"The figure is at {figure}")


def _check_figure(path):
    """Refuse a file format that cannot be drawn."""
    from matplotlib.backend_bases import FigureCanvasBase

    known = sorted(FigureCanvasBase.get_supported_filetypes())
    if path.suffix.lstrip(".").lower() not in known:
        raise ParameterError(f"--figure {path} must end in one of {', '.join(known)}.")


def evaluate(
    model: Annotated[str, typer.Argument(help="'demo', a hub id, a folder (also a pruned one), or a .gguf file.")],
    text: Annotated[str, typer.Option(help="Text to measure on.")] = "demo",
    split: Annotated[str | None, typer.Option(help="Part of the demo corpus or sub-folder of a folder.")] = None,
    context: Context = 1024,
    bos: Bos = "auto",
    dtype: Dtype = "float32",
    device: Device = "cpu",
):
    """Measure token-level perplexity."""
    from ..evaluation import perplexity_report
    from ..models import load_model
    from ..text import load_corpus

    leading = read_bos(bos)
    texts = load_corpus(text, split=split or ("heldout" if text == "demo" else None))
    loaded, tokenizer = load_model(model, dtype=dtype, device=device)
    found = perplexity_report(loaded, tokenizer, texts, context=context, bos=leading)
    protocol = f"token level, {context} tokens of context, BOS: {found['bos']}, {texts.name}"
    typer.echo(f"perplexity {found['perplexity']:.3f} ({protocol})")

"""Commands that prune models and measure the result."""

from pathlib import Path
from typing import Annotated

import typer

from ..exceptions import ParameterError, read_numbers
from ..parallel import main_process
from . import options as opt
from .endings import end
from .options import read_bos

Networks = Annotated[
    str | None,
    typer.Option(
        help="Networks for a score that reads them: found on the text (published, layers or joint), or with --study "
        "a name, accepted, not-rejected (see 'llmbrain view') or numbers, e.g. canica20:accepted or 0,4-6."
    ),
]
NetworkStudy = Annotated[
    Path | None, typer.Option("--study", help="Study whose networks are used; label them with 'llmbrain view'.")
]
RatioOf = Annotated[str, typer.Option(help="What a ratio is a share of: neurons, decoder, all, bytes or latency.")]


def prune(
    out: opt.Out,
    model: opt.Model = "demo",
    text: opt.Text = "demo",
    test_text: opt.TestText = None,
    ratio: opt.Ratio = 0.2,
    ratio_of: RatioOf = "neurons",
    recipe: Annotated[
        str,
        typer.Option(
            help="best (needs a GPU), fast, the baselines flap and wanda, or auto: best on a GPU, fast on a CPU."
        ),
    ] = "auto",
    score: Annotated[str | None, typer.Option(help="How neurons are ranked: flap, wanda, random, ...")] = None,
    allocation: Annotated[
        str | None, typer.Option(help="How the budget is spread over layers: power, global, uniform, ...")
    ] = None,
    compensation: Annotated[
        str | None, typer.Option(help="How the kept neurons are refitted: none, bias, ridge or affine.")
    ] = None,
    networks: Networks = None,
    study: NetworkStudy = None,
    max_tokens: opt.MaxTokensOrAll = None,
    bos: opt.Bos = "auto",
    format: Annotated[str, typer.Option("--format", help="hetero, uniform, padded or gguf.")] = "hetero",
    dtype: opt.Dtype = "auto",
    device: opt.Device = "auto",
    random_state: opt.Seed = 0,
):
    """Remove MLP neurons permanently and save the smaller model."""
    from ..files import check_output_folder
    from ..models import load_model
    from ..models.checkpoints import PRUNED_MARKER
    from ..models.devices import as_device
    from ..pruning import ALLOCATIONS, FORMATS, RATIO_OF, Recipe
    from ..pruning import prune as prune_
    from ..text import load_corpus
    from ..text.corpus import is_demo, load_heldout

    FORMATS.check(format)
    RATIO_OF.check(ratio_of)
    given = {
        "score": score, "compensation": compensation, "networks": _networks(networks, study), "max_tokens": max_tokens,
        "bos": read_bos(bos),
    }  # fmt: skip
    if recipe == "auto":
        recipe = "fast" if as_device(device).type == "cpu" else "best"
    chosen = Recipe.named(recipe).with_(**{name: value for name, value in given.items() if value is not None})
    if allocation is not None:
        ALLOCATIONS.check(allocation)
    check_output_folder(out, PRUNED_MARKER, inputs=[model, text, test_text, study])
    texts = load_corpus(text)
    test_text = test_text or (text if is_demo(text) else None)
    other = None if test_text is None else load_heldout(test_text)
    loaded, tokenizer = load_model(model, dtype=dtype, device=device)
    pruned = prune_(
        loaded, tokenizer, calibration=texts, ratio=ratio, recipe=chosen, ratio_of=ratio_of, allocation=allocation,
        random_state=random_state, format=format, test_text=other,
    )  # fmt: skip
    pruned.save_pretrained(out, tokenizer=tokenizer)
    typer.echo(pruned.describe())
    end([out], *(word.format(folder=out) for word in FORMATS[format].then))


def grid(
    out: opt.OutFile,
    model: opt.Model = "demo",
    text: opt.Text = "demo",
    test_text: opt.TestText = None,
    scores: Annotated[str, typer.Option(help="Scores, separated by commas.")] = "random,magnitude,wanda,flap",
    allocations: Annotated[str, typer.Option(help="Allocations, separated by commas.")] = "uniform,global",
    compensations: Annotated[str, typer.Option(help="Compensations, separated by commas.")] = "none,bias,affine",
    networks: Networks = None,
    study: NetworkStudy = None,
    ratios: Annotated[str, typer.Option(help="Shares to remove, separated by commas.")] = "0.2,0.3,0.5",
    ratio_of: RatioOf = "neurons",
    heads: Annotated[
        bool, typer.Option("--heads", help="Prune attention heads too; needs --ratio-of decoder.")
    ] = False,
    seeds: Annotated[str, typer.Option(help="Seeds of recipes that draw at random, e.g. 0-2 or 0,4.")] = "0-2",
    minimal_pairs: Annotated[
        bool, typer.Option("--minimal-pairs", help="Also measure the accuracy on the packaged minimal pairs.")
    ] = False,
    figure: Annotated[Path | None, typer.Option(help="Also draw the table into this file (.png, .svg, .pdf).")] = None,
    max_tokens: opt.MaxTokens = 65536,
    max_test_tokens: opt.MaxTestTokens = None,
    context: opt.Context = 1024,
    bos: opt.Bos = "auto",
    dtype: opt.Dtype = "auto",
    device: opt.Device = "auto",
    share: opt.Share = None,
):
    """Compare pruning recipes that are calibrated on one text.

    Combines every score with every allocation, compensation and ratio, and measures perplexity on other text.
    """
    from ..files import check_apart, check_output_table
    from ..models import load_model
    from ..pruning import combine, run_grid
    from ..pruning.grid_table import GRID_KEYS
    from ..text import load_corpus
    from ..text.corpus import load_heldout

    try:
        shares = [float(r) for r in ratios.split(",")]
    except ValueError as error:
        raise ParameterError(f"--ratios must be numbers separated by commas; got {ratios!r}.") from error
    chosen_seeds = read_numbers("--seeds", seeds)
    options = {"max_tokens": max_tokens, "context": context, "heads": heads, "bos": read_bos(bos)}
    names = (scores.split(","), allocations.split(","), compensations.split(","))
    recipes = combine(*names, options=options, networks=_networks(networks, study))
    check_output_table(out, GRID_KEYS)
    if figure is not None:
        _check_figure(figure)
    for path in filter(None, (out, figure)):
        check_apart(path, [model, text, test_text, study], around=False)
    fit = load_corpus(text)
    test = load_heldout(test_text or "demo")
    loaded, tokenizer = load_model(model, dtype=dtype, device=device)
    settings = {
        "ratio_of": ratio_of, "seeds": chosen_seeds, "context": context, "max_tokens": max_test_tokens,
        "minimal_pairs": "all" if minimal_pairs else None, "bos": read_bos(bos), "share": share,
    }  # fmt: skip
    table = run_grid(loaded, tokenizer, fit, test, recipes, ratios=shares, out=out, settings=settings)
    if share is not None:
        end([], "llmbrain", "merge", out)
        return
    wrote = [out]
    if figure is not None and main_process():
        from ..plotting import plot_pruning_grid

        plot_pruning_grid(table, output_file=figure)
        wrote.append(figure)
    best = table[table["score"] != "dense"].sort_values(["ratio", "perplexity"]).groupby("ratio").head(1)
    for row in best.itertuples():
        names = "+".join((row.score, row.allocation, row.compensation))
        typer.echo(f"best at {row.ratio:.0%}: {names}, {row.perplexity:.2f} ({row.ratio_to_dense:.3f} x dense)")
    first = best.iloc[:1][["score", "allocation", "compensation", "ratio"]].to_dict("records")
    parts = [word for row in first for name, value in row.items() for word in (f"--{name}", value)]
    end(wrote, "llmbrain", "prune", "--model", model, "--text", text, *parts, "--out", "smaller")


def _networks(which, study):
    """Networks of a study that were asked for, or the name of a way to find some on the text."""
    from ..networks.labels import chosen_networks, split_choice
    from ..pipeline import current_networks
    from ..pruning.published import NETWORK_FINDERS

    if study is not None:
        current_networks(study, split_choice(which)[0])  # refuses those that the recording has outgrown
        return chosen_networks(study, which)
    if which is not None and which not in NETWORK_FINDERS:
        raise ParameterError(
            f"--networks {which} needs the study that holds them: add --study FOLDER. Without a study, networks are "
            f"found on the text: {', '.join(NETWORK_FINDERS)}."
        )
    return which


def _check_figure(path):
    """Refuse a file format that cannot be drawn, and a file that is not a figure."""
    from matplotlib.backend_bases import FigureCanvasBase

    from ..files import check_output_figure

    known = sorted(FigureCanvasBase.get_supported_filetypes())
    if path.suffix.lstrip(".").lower() not in known:
        raise ParameterError(f"--figure {path} must end in one of {', '.join(known)}.")
    check_output_figure(path)


def evaluate(
    model: Annotated[str, typer.Argument(help="'demo', a hub id, a folder (also a pruned one), or a .gguf file.")],
    text: opt.Text = "demo",
    split: Annotated[str | None, typer.Option(help="Part of the demo corpus or sub-folder of a folder.")] = None,
    max_tokens: opt.MaxTokensOrAll = None,
    context: opt.Context = 1024,
    bos: opt.Bos = "auto",
    dtype: opt.Dtype = "auto",
    device: opt.Device = "auto",
):
    """Measure token-level perplexity."""
    from ..evaluation import perplexity_report
    from ..models import load_model
    from ..models.checkpoints import PRUNED_MARKER
    from ..text import load_corpus
    from ..text.corpus import load_heldout

    leading = read_bos(bos)
    texts = load_corpus(text, split=split) if split else load_heldout(text)
    loaded, tokenizer = load_model(model, dtype=dtype, device=device)
    found = perplexity_report(loaded, tokenizer, texts, context=context, max_tokens=max_tokens, bos=leading)
    protocol = f"token level, {context} tokens of context, BOS: {found['bos']}, {texts.name}"
    typer.echo(f"perplexity {found['perplexity']:.3f} ({protocol}, {found['n_tokens']:,} tokens)")
    if (Path(model) / PRUNED_MARKER).is_file():
        end([], f"read {Path(model) / 'README.md'}: how to load the model, and what was measured before and after")
    else:
        end([], "llmbrain", "prune", "--model", model, "--out", "smaller")

"""The command line: one command a station, and one for the whole path."""

import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from .exceptions import LLMBrainError, LLMBrainWarning, ParameterError

app = typer.Typer(
    name="llmbrain",
    help="Neuroimaging-style analysis of language models: record activations as pseudo-fMRI, find functional networks, "
    "lesion them, prune by them, and report. 'llmbrain run' does all of it; every other command is one station of it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Model = Annotated[str, typer.Option("--model", "-m", help="'demo', a hub id, a folder, or a .gguf file.")]
CorpusOption = Annotated[
    str, typer.Option("--corpus", "-c", help="'demo', a text file, a folder of texts, a .jsonl file, or hub:dataset.")
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder to write; made if it is missing.")]
StudyFolder = Annotated[Path, typer.Argument(help="A study folder, as 'llmbrain record' or 'llmbrain run' wrote it.")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16, float16, or auto.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, or auto.")]
Seed = Annotated[int, typer.Option("--random-state", help="Seed of everything that is drawn.")]


def _version(wanted: bool):
    if wanted:
        from . import __version__

        typer.echo(f"llmbrain {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
):
    """Read the options that stand before the command; main() looks for --debug itself."""


@app.command()
def run(
    out: Out,
    model: Model = "demo",
    corpus: CorpusOption = "demo",
    heldout: Annotated[
        str | None, typer.Option(help="Text for lesions and evaluation; else a quarter of the corpus is set aside.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Less of everything: a minute or two with the demo.")] = False,
    n_components: Annotated[int | None, typer.Option(help="Number of networks: 20, or 8 if quick.")] = None,
    threshold: Annotated[float, typer.Option(help="Neurons with a larger |z| belong to a network.")] = 3.0,
    ratio: Annotated[float, typer.Option(help="Share of the MLP neurons that pruning removes.")] = 0.2,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    random_state: Seed = 0,
):
    """Do all of it: record, find networks, lesion, prune, report."""
    from .pipeline import run_study

    report = run_study(
        model,
        corpus,
        out,
        heldout=heldout,
        quick=quick,
        n_components=n_components,
        threshold=threshold,
        ratio=ratio,
        dtype=dtype,
        device=device,
        random_state=random_state,
    )
    typer.echo(f"The report is at {report}")


@app.command()
def record(
    out: Out,
    model: Model = "demo",
    corpus: CorpusOption = "demo",
    site: Annotated[
        list[str] | None,
        typer.Option(help="mlp (the default), attention, mlp_gate, mlp_up, mlp_output, layer; repeat it for several."),
    ] = None,
    modules: Annotated[
        str | None, typer.Option(help="Regular expression that names the site's modules, if they are not found.")
    ] = None,
    layers: Annotated[str | None, typer.Option(help="Record only these layers, e.g. 0,4,10-15.")] = None,
    every: Annotated[int, typer.Option(help="Record only every so many-th token of a document.")] = 1,
    max_tokens: Annotated[int | None, typer.Option(help="Stop after so many tokens.")] = None,
    context: Annotated[
        int | None, typer.Option(help="Most tokens the model reads at once: 1024, or what it can.")
    ] = None,
    warmup: Annotated[
        int | None, typer.Option(help="Least tokens before a recorded one in a later window: context / 4.")
    ] = None,
    tokens_per_run: Annotated[int, typer.Option(help="Most tokens of a run, at most 32767.")] = 4096,
    storage: Annotated[str, typer.Option(help="float32, or int16 for files of half the size.")] = "float32",
    special_tokens: Annotated[
        bool, typer.Option("--special-tokens", help="Record BOS and other special tokens as well.")
    ] = False,
    chat: Annotated[
        bool, typer.Option("--chat", help="Write texts, or the messages of a .jsonl, with the model's chat template.")
    ] = False,
    generate: Annotated[
        int | None, typer.Option(help="Let the model go on from each text for so many tokens; record them as well.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Documents in one forward pass.")] = 8,
    run_index: Annotated[
        str | None, typer.Option(help="Record these runs only, e.g. 3 or 1,4-6, as one job of an array.")
    ] = None,
    forecast: Annotated[bool, typer.Option("--forecast", help="Say what it would cost, and record nothing.")] = False,
    dtype: Dtype = "float32",
    device: Device = "cpu",
):
    """Record activations as 4D NIfTI runs in a BIDS-like study folder."""
    from .corpus import load_corpus
    from .models import load_model
    from .recording import conversations, generated
    from .recording import forecast as forecast_
    from .recording import record as record_

    sites = [name for given in site or ["mlp"] for name in given.split(",")]
    options = {
        "site": sites if len(sites) > 1 else sites[0], "sites": modules, "layers": _numbers("--layers", layers),
        "every": every, "max_tokens": max_tokens, "context": context, "warmup": warmup,
        "tokens_per_run": tokens_per_run, "batch_size": batch_size, "storage": storage,
        "special_tokens": special_tokens,
    }  # fmt: skip
    runs = _numbers("--run-index", run_index)
    texts = Path(corpus) if chat and corpus.endswith(".jsonl") else load_corpus(corpus)
    loaded, tokenizer = load_model(model, dtype=dtype, device=device)
    if chat:
        texts = conversations(texts, tokenizer, add_generation_prompt=generate is not None)
    if generate is not None:
        texts = generated(loaded, tokenizer, texts, max_new_tokens=generate)
    if forecast:
        typer.echo(forecast_(loaded, tokenizer, texts, **options))
        return
    recordings = record_(loaded, tokenizer, texts, out, run_index=runs, **options)
    for recording in recordings.values() if len(sites) > 1 else [recordings]:
        for path in recording.paths:
            typer.echo(path)


def _numbers(option, text):
    """The numbers of ``0,4,10-15``; None for None."""

    if text is None:
        return None
    numbers = []
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if not first.isdigit() or (last and not last.isdigit()) or part.strip().endswith("-"):
            raise ParameterError(f"{option} {text!r}: give numbers and ranges separated by commas, e.g. 0,4,10-15.")
        numbers += range(int(first), int(last or first) + 1)
    return numbers


@app.command()
def networks(
    study: StudyFolder,
    n_components: Annotated[str, typer.Option(help="Number of networks, or auto.")] = "20",
    n_repeats: Annotated[
        int, typer.Option(help="Decompositions of bootstrapped runs that say how stable each network is; 0 for none.")
    ] = 10,
    method: Annotated[str, typer.Option(help="canica or dictlearning.")] = "canica",
    engine: Annotated[str, typer.Option(help="torch (fast) or nilearn (reference).")] = "torch",
    threshold: Annotated[float, typer.Option(help="Neurons with a larger |z| belong to a network.")] = 3.0,
    random_state: Seed = 0,
):
    """Find the functional networks of a recording."""
    from .pipeline import find_networks

    if n_components != "auto" and not n_components.isdigit():
        raise ParameterError(f"--n-components {n_components!r}: give a whole number, or auto.")
    found = find_networks(
        study,
        n_components=n_components if n_components == "auto" else int(n_components),
        n_repeats=n_repeats,
        method=method,
        engine=engine,
        threshold=threshold,
        random_state=random_state,
    )
    typer.echo(found.metrics.to_string(index=False))


@app.command()
def lesion(
    study: StudyFolder,
    text: Annotated[
        str | None, typer.Option(help="Held-out text to measure on; the demo's own held-out part by default.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Where the study's model is now.")] = None,
    how: Annotated[str, typer.Option(help="zero or mean.")] = "zero",
    threshold: Annotated[float, typer.Option(help="Neurons with a larger |z| belong to a network.")] = 3.0,
    n_controls: Annotated[int, typer.Option(help="Random sets drawn for each network and control family.")] = 20,
    max_tokens: Annotated[int, typer.Option(help="Tokens of held-out text that each condition reads.")] = 600,
    device: Device = "cpu",
    random_state: Seed = 0,
):
    """Silence networks and matched controls; measure the loss.

    Each network, and for each as many random sets of neurons as wanted, is silenced while the model reads held-out
    text. The table and the control draws are written into the study.
    """
    from .pipeline import lesion_networks

    result = lesion_networks(
        study,
        text=text,
        model=model,
        how=how,
        threshold=threshold,
        n_controls=n_controls,
        max_tokens=max_tokens,
        device=device,
        random_state=random_state,
    )
    typer.echo(result.table.to_string(index=False))


@app.command()
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
    calibration_tokens: Annotated[int | None, typer.Option(help="Use at most so many tokens.")] = None,
    format: Annotated[str, typer.Option("--format", help="hetero, uniform, padded or gguf.")] = "hetero",
    dtype: Dtype = "float32",
    device: Device = "cpu",
    random_state: Seed = 0,
):
    """Remove MLP neurons for good and save the smaller model."""
    from .corpus import load_corpus
    from .models import load_model
    from .pruning import prune as prune_
    from .pruning.checkpoint import check_format
    from .pruning.options import check_ratio, check_recipe, choose_recipe

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
        options=options,
        random_state=random_state,
        **chosen,
    )
    pruned.save_pretrained(out, format=format, tokenizer=tokenizer)
    for name, value in {**pruned.summary, **pruned.summary["speed"]}.items():
        if not isinstance(value, (list, dict)):
            typer.echo(f"{name}: {value}")
    typer.echo(f"The smaller model is at {out}")


@app.command()
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
    ratios: Annotated[str, typer.Option(help="Separated by commas.")] = "0.2,0.3,0.5",
    calibration_tokens: Annotated[int, typer.Option(help="Tokens to calibrate on.")] = 65536,
    evaluation_tokens: Annotated[int | None, typer.Option(help="Tokens to evaluate on.")] = None,
    context: Annotated[int, typer.Option(help="Tokens of context.")] = 1024,
    device: Device = "cpu",
):
    """Compare pruning recipes on one calibration text.

    Every score with every allocation, compensation and ratio, measured as perplexity on other text.
    """
    from .corpus import load_corpus
    from .models import load_model
    from .pruning import run_grid

    try:
        shares = [float(r) for r in ratios.split(",")]
    except ValueError as error:
        raise ParameterError(f"--ratios must be numbers separated by commas; got {ratios!r}.") from error
    fit = load_corpus(calibration)
    test = load_corpus("demo", split="heldout") if evaluation in (None, "demo") else load_corpus(evaluation)
    loaded, tokenizer = load_model(model, device=device)
    run_grid(
        loaded,
        tokenizer,
        fit,
        test,
        ratios=shares,
        scores=scores.split(","),
        allocations=allocations.split(","),
        compensations=compensations.split(","),
        options={"n_tokens": calibration_tokens, "context": context},
        context=context,
        max_tokens=evaluation_tokens,
        out=out,
    )
    typer.echo(f"The table is at {out}")


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="'demo', a hub id, a folder (also a pruned one), or a .gguf file.")],
    text: Annotated[str, typer.Option(help="Text to measure on.")] = "demo",
    split: Annotated[str | None, typer.Option(help="Part of the demo corpus or sub-folder of a folder.")] = None,
    context: Annotated[int, typer.Option(help="Tokens of context.")] = 1024,
    dtype: Dtype = "float32",
    device: Device = "cpu",
):
    """Measure token-level perplexity."""
    from .corpus import load_corpus
    from .evaluation import perplexity
    from .models import load_model

    texts = load_corpus(text, split=split or ("heldout" if text == "demo" else None))
    loaded, tokenizer = load_model(model, dtype=dtype, device=device)
    value = perplexity(loaded, tokenizer, texts, context=context)
    typer.echo(f"perplexity {value:.3f} (token level, {context} tokens of context, {texts.name})")


@app.command()
def report(study: StudyFolder):
    """Write the report of a study: one HTML file."""
    from .reporting import generate_report

    path = generate_report(study).save()
    typer.echo(f"The report is at {path}")


@app.command()
def info(
    model: Annotated[str | None, typer.Argument(help="A model to look into; leave out for versions.")] = None,
    n_tokens: Annotated[int, typer.Option(help="Tokens whose recording is weighed.")] = 10_000,
):
    """Show versions and devices, or what a model is made of.

    With a model: its sites, their sizes and geometry, and what a recording would weigh.
    """
    from .pipeline import describe_environment, describe_sites

    typer.echo(describe_environment() if model is None else describe_sites(model, n_tokens))


def _say_warning(message, category, *_where, **_more):
    """Warnings as sentences: whoever types a command has no use for the line of code."""
    if issubclass(category, LLMBrainWarning):
        typer.echo(f"llmbrain: {message}", err=True)
    else:
        typer.echo(f"{category.__name__}: {message}", err=True)


def main(args=None):
    """Run the command line; errors of llmbrain are shown without a traceback unless ``--debug`` is given.

    Parameters
    ----------
    args : list of str, optional
        Instead of ``sys.argv[1:]``.
    """
    args = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in args
    if debug:  # accepted anywhere on the line
        args = ["--debug", *(a for a in args if a != "--debug")]
    if not args:
        args = ["--help"]
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _say_warning
            app(args, standalone_mode=False)
    except LLMBrainError as error:
        if debug:
            raise
        typer.echo(f"llmbrain: {error}", err=True)
        sys.exit(2)
    except typer.Exit as leave:
        sys.exit(leave.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        typer.echo("llmbrain: interrupted; what is finished is kept, the same command goes on from there.", err=True)
        sys.exit(130)
    except Exception as error:
        if hasattr(error, "format_message"):  # a usage error of the command line itself
            typer.echo(f"llmbrain: {error.format_message()} (see --help)", err=True)
            sys.exit(2)
        if debug:
            raise
        what = f"{type(error).__name__}: {error}".strip().rstrip(".")
        typer.echo(f"llmbrain: unexpected {what}. The same command with --debug shows where.", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()

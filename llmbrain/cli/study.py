"""Commands that make, extend or show a study."""

from pathlib import Path
from typing import Annotated

import typer

from ..exceptions import ParameterError
from .options import CorpusOption, Device, Dtype, Model, Out, Seed, StudyFolder, numbers


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
    from ..pipeline import run_study

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
    from ..models import load_model
    from ..recording import conversations, generated
    from ..recording import forecast as forecast_
    from ..recording import record as record_
    from ..text import load_corpus

    sites = [name for given in site or ["mlp"] for name in given.split(",")]
    options = {
        "site": sites if len(sites) > 1 else sites[0], "sites": modules, "layers": numbers("--layers", layers),
        "every": every, "max_tokens": max_tokens, "context": context, "warmup": warmup,
        "tokens_per_run": tokens_per_run, "batch_size": batch_size, "storage": storage,
        "special_tokens": special_tokens,
    }  # fmt: skip
    runs = numbers("--run-index", run_index)
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


def networks(
    study: StudyFolder,
    site: Annotated[str | None, typer.Option(help="Which site, if several were recorded, e.g. mlp.")] = None,
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
    from ..pipeline import find_networks

    if n_components != "auto" and not n_components.isdigit():
        raise ParameterError(f"--n-components {n_components!r}: give a whole number, or auto.")
    found = find_networks(
        study,
        site=site,
        n_components=n_components if n_components == "auto" else int(n_components),
        n_repeats=n_repeats,
        method=method,
        engine=engine,
        threshold=threshold,
        random_state=random_state,
    )
    typer.echo(found.metrics.to_string(index=False))


def lesion(
    study: StudyFolder,
    text: Annotated[
        str | None, typer.Option(help="Held-out text to measure on; the demo's own held-out part by default.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Where the study's model is now.")] = None,
    how: Annotated[
        str,
        typer.Option(
            help="zero (silence), mean, resample, retain (silence all others), or with --value scale, add, clamp."
        ),
    ] = "zero",
    value: Annotated[
        float | None, typer.Option(help="Factor of scale (2 doubles), summand of add, activity of clamp.")
    ] = None,
    strength: Annotated[float, typer.Option(help="1 for the whole lesion, less for a part of the way.")] = 1.0,
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
    from ..pipeline import lesion_networks

    result = lesion_networks(
        study,
        text=text,
        model=model,
        how=how,
        value=value,
        strength=strength,
        threshold=threshold,
        n_controls=n_controls,
        max_tokens=max_tokens,
        device=device,
        random_state=random_state,
    )
    typer.echo(result.table.to_string(index=False))


def report(study: StudyFolder):
    """Write the report of a study: one HTML file."""
    from ..reporting import generate_report

    path = generate_report(study).save()
    typer.echo(f"The report is at {path}")


def info(
    model: Annotated[str | None, typer.Argument(help="A model to look into; leave out for versions.")] = None,
    n_tokens: Annotated[int, typer.Option(help="Tokens whose recording is weighed.")] = 10_000,
):
    """Show versions and devices, or what a model is made of.

    With a model: its sites, their sizes and geometry, and what a recording would weigh.
    """
    from ..pipeline import describe_environment, describe_sites

    typer.echo(describe_environment() if model is None else describe_sites(model, n_tokens))

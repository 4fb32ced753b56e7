"""Commands that make or extend a study."""

import inspect
from pathlib import Path
from typing import Annotated

import typer

from ..exceptions import ParameterError, read_numbers
from . import options as opt
from .endings import end
from .options import number, read_bos, to_path

_TASKS = "Task: loss, minimal_pairs, or NAME=FILE, such as minimal_pairs=pairs.jsonl or multiple_choice=questions.jsonl"


def run(
    out: opt.Out,
    model: opt.Model = "demo",
    text: opt.Text = "demo",
    test_text: Annotated[
        str | None, typer.Option(help="Other text, for lesions and evaluation; by default a quarter of the documents.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Use smaller amounts; takes a few minutes with the demo.")
    ] = False,
    n_components: Annotated[int | None, number("Number of networks; 20 by default, 8 with --quick.", least=1)] = None,
    threshold: opt.Threshold = 3.0,
    ratio: opt.Ratio = 0.2,
    context: Annotated[
        int | None,
        number("Tokens that the model reads at once; by default 1024 or 512, or the model's maximum.", least=2),
    ] = None,
    dtype: opt.Dtype = "auto",
    device: opt.Device = "auto",
    random_state: opt.Seed = 0,
):
    """Record, find networks, lesion, prune and report in one go."""
    from ..pipeline import run_study

    options = locals()
    report = run_study(**{name: options[name] for name in _names(run)})
    end([report], "llmbrain", "view", out)


def record(
    out: opt.Out,
    model: opt.Model = "demo",
    text: opt.Text = "demo",
    site: Annotated[
        list[str] | None,
        typer.Option(help="mlp (the default), attention, mlp_gate, mlp_up, mlp_output, layer; repeat for several."),
    ] = None,
    modules: Annotated[
        str | None,
        typer.Option(help="Regular expression for the names of the site's modules, if llmbrain does not find them."),
    ] = None,
    layers: Annotated[str | None, typer.Option(help="Record only these layers, e.g. 0,4,10-15.")] = None,
    every: Annotated[int, number("Record every n-th token of a document.", least=1)] = 1,
    max_tokens: opt.MaxTokensOrAll = None,
    context: Annotated[
        int | None,
        number(
            "Maximum number of tokens that the model reads at once; by default 1024, or the model's maximum.", least=2
        ),
    ] = None,
    warmup: Annotated[
        int | None,
        number("Minimum context of a recorded token in later windows; by default a quarter of --context.", least=0),
    ] = None,
    tokens_per_run: Annotated[int, number("Maximum number of tokens per run.", least=1, most=32767)] = 4096,
    storage: Annotated[str, typer.Option(help="float32, or int16 for files of half the size.")] = "float32",
    special_tokens: Annotated[
        bool, typer.Option("--special-tokens", help="Also record BOS and other special tokens.")
    ] = False,
    bos: opt.Bos = "auto",
    chat: Annotated[
        bool, typer.Option("--chat", help="Apply the model's chat template to texts, or to the messages of a .jsonl.")
    ] = False,
    generate: Annotated[
        int | None, number("Let the model continue each text by up to n tokens, and record them.", least=1)
    ] = None,
    batch_size: Annotated[int, number("Number of documents per forward pass.", least=1)] = 8,
    run_index: Annotated[
        str | None, typer.Option(help="Record only these runs, e.g. 3 or 1,4-6, as one job of an array.")
    ] = None,
    share: opt.Share = None,
    gpus_per_rank: Annotated[
        int, number("GPUs of each process under torchrun, for a model that one cannot hold.", least=1)
    ] = 1,
    subject: Annotated[str | None, typer.Option(help="Label of the model in the dataset; its name by default.")] = None,
    session: Annotated[
        str | None, typer.Option(help="Label of the checkpoint, to keep several of one model; its revision by default.")
    ] = None,
    forecast: Annotated[
        bool, typer.Option("--forecast", help="Print the size and the memory of the recording, and record nothing.")
    ] = False,
    processes: Annotated[
        int | None, number("With --forecast: also the time of this many processes or shares.", least=1)
    ] = None,
    dtype: opt.Dtype = "auto",
    device: opt.Device = "auto",
):
    """Record activations as 4D NIfTI runs in a study folder."""
    from ..dataset import bids_label, check_study_folder
    from ..text import load_corpus

    sites = [name for given in site or ["mlp"] for name in given.split(",")]
    options = {
        "site": sites if len(sites) > 1 else sites[0], "sites": modules, "layers": read_numbers("--layers", layers),
        "every": every, "max_tokens": max_tokens, "context": context, "warmup": warmup,
        "tokens_per_run": tokens_per_run, "batch_size": batch_size, "storage": storage,
        "special_tokens": special_tokens, "subject": subject, "session": session,
    }  # fmt: skip
    leading = read_bos(bos)
    runs = read_numbers("--run-index", run_index)
    if processes is not None and not forecast:
        raise ParameterError("--processes is for --forecast. To record in several processes, start them with torchrun.")
    check_study_folder(out, [model, text])
    texts = Path(text) if chat and text.endswith(".jsonl") else load_corpus(text)
    # after a wrong text was refused, because these take seconds to import
    from ..models import load_model
    from ..recording import conversations, generated
    from ..recording import forecast as forecast_
    from ..recording import record as record_

    loaded, tokenizer = load_model(model, dtype=dtype, device=device)
    if chat:
        texts = conversations(texts, tokenizer, add_generation_prompt=generate is not None)
    if generate is not None:
        texts = generated(loaded, tokenizer, texts, max_new_tokens=generate, bos=leading)
    else:
        options["bos"] = leading
    if forecast:
        typer.echo(forecast_(loaded, tokenizer, texts, processes=processes, **options))
        return
    recordings = record_(loaded, tokenizer, texts, out, run_index=runs, share=share, **options)
    recordings = list(recordings.values()) if len(sites) > 1 else [recordings]
    wrote = [
        f"{Path(r.paths[0]).parent}/*_desc-{bids_label(r.site)}_bold.nii ({len(r)} run{'s'[: len(r) > 1]})"
        for r in recordings
    ]
    end(wrote, "llmbrain", "networks" if share is None else "merge", recordings[0].study)


def networks(
    study: opt.StudyFolder,
    site: Annotated[str | None, typer.Option(help="Which site, if several were recorded, e.g. mlp.")] = None,
    n_components: Annotated[str, typer.Option(help="Number of networks [at least 1], or auto.")] = "20",
    n_repeats: Annotated[
        int, number("Number of decompositions of bootstrapped runs, which measure stability; 0 for none.", least=0)
    ] = 10,
    method: Annotated[str, typer.Option(help="canica or dictlearning.")] = "canica",
    engine: Annotated[str, typer.Option(help="torch (fast) or nilearn (reference).")] = "torch",
    threshold: opt.Threshold = 3.0,
    random_state: opt.Seed = 0,
    name: Annotated[
        str | None, typer.Option(help="Name of the networks in the study; by default e.g. canica20.")
    ] = None,
):
    """Find the functional networks of a recording."""
    from ..dataset import bids_label
    from ..pipeline import find_networks

    if n_components != "auto" and not (n_components.isdecimal() and int(n_components) > 0):
        raise ParameterError(f"--n-components {n_components!r} must be a whole number of at least 1, or auto.")
    options = locals()
    options["n_components"] = n_components if n_components == "auto" else int(n_components)
    found = find_networks(**{name: options[name] for name in _names(networks)})
    typer.echo(found.summary())
    end([_pattern(study, "components", bids_label(name or found.name))], "llmbrain", "lesion", study)


def lesion(
    study: opt.StudyFolder,
    networks: opt.ChosenNetworks = None,
    text: Annotated[
        str | None, typer.Option(help="Held-out text to measure on; by default the demo's own held-out part.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Where the study's model is now.")] = None,
    how: Annotated[
        str,
        typer.Option(
            help="zero (silence), mean, resample or retain (silence all others); with --value also scale, add or clamp."
        ),
    ] = "zero",
    value: Annotated[
        float | None, number("Factor for scale (2 doubles), offset for add, or activity for clamp.")
    ] = None,
    strength: Annotated[float, number("1 for the full lesion, less for a partial one.", least=0, most=1)] = 1.0,
    positions: Annotated[
        str, typer.Option(help="Tokens at which the lesions act: all, prompt, generated, last, or e.g. 0,4,10-15.")
    ] = "all",
    threshold: Annotated[
        float | None,
        number(
            "A neuron is lesioned if its |z| in the network exceeds this; by default that of the networks.", above=0
        ),
    ] = None,
    n_networks: Annotated[int | None, number("Lesion this many networks, stable ones first.", least=1)] = None,
    mask: Annotated[
        list[str] | None,
        typer.Option(help="Lesion the neurons of this mask file instead of the networks; repeat for several."),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(help=f"{_TASKS}; by default loss; repeat for several."),
    ] = None,
    control: Annotated[
        list[str] | None,
        typer.Option(help="Family of random sets, e.g. layer or layer+importance (the default: both); repeatable."),
    ] = None,
    n_controls: Annotated[int, number("Number of random sets per network and control family.", least=1)] = 20,
    max_tokens: opt.MaxTokens = 600,
    bos: opt.Bos = "auto",
    device: opt.Device = "auto",
    random_state: opt.Seed = 0,
    share: opt.Share = None,
):
    """Silence networks and matched controls, and measure the loss.

    Each network, and random sets of neurons matched to it, are silenced while the model reads held-out text. The
    table of effects and the effects of the controls are written into the study.
    """
    from ..dataset import as_study, result_name
    from ..lesions.positions import POSITIONS
    from ..networks.labels import split_choice
    from ..pipeline import lesion_networks

    where = positions if positions in POSITIONS else read_numbers("--positions", positions)
    options = {
        **locals(), "bos": read_bos(bos), "positions": where, "masks": mask, "tasks": task, "controls": control,
    }  # fmt: skip
    plural = {"mask": "masks", "task": "tasks", "control": "controls"}
    result = lesion_networks(**{name: options[name] for name in (plural.get(n, n) for n in _names(lesion))})
    if share is not None:
        end([], "llmbrain", "merge", study)
        return
    typer.echo(result.summary())
    name = "masks" if mask else result_name(as_study(study), "networks", split_choice(networks)[0])
    end([_pattern(study, "lesion_effects", name)], "llmbrain", "report", study)


def merge(
    study: Annotated[
        Path,
        typer.Argument(parser=to_path, metavar="STUDY OR TSV", help="What the shares have filled: a study, or a grid."),
    ],
    model: Annotated[str | None, typer.Option("--model", "-m", help="Where the study's model is now.")] = None,
    device: Annotated[str | None, typer.Option(help="Device of the model; by default that of the shares.")] = None,
):
    """Put together what jobs of an array have made with --share.

    Checks that no share is missing, unfinished or of another study, and writes the tables that one process would write.
    """
    if isinstance(study, Path) and study.suffix == ".tsv":
        from ..pruning import merge_grid

        table = merge_grid(study)
        typer.echo(f"{len(table)} rows")
        end([study], "llmbrain", "prune", "--out", "smaller")
        return
    from ..pipeline import merge_shares

    found = merge_shares(study, model=model, device=device)
    if "runs" in found:
        typer.echo(f"The recording is complete: {found.pop('runs')} runs.")
    for result in found.values():
        typer.echo(result.summary())
    wrote = [_pattern(study, "lesion_effects", name) for name in found]
    end(wrote, "llmbrain", "report" if found else "networks", study)


def _pattern(study, kind, desc):
    """Pattern of the files of one analysis in a study folder."""
    from ..dataset import as_study

    return as_study(study).path(kind, desc=desc).parent / f"*_desc-{desc}_*"


def _names(command):
    """Names of a command's options, which are those of the function that does its work."""
    return inspect.signature(command).parameters

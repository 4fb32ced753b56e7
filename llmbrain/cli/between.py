"""Commands that compare models."""

from pathlib import Path
from typing import Annotated

import typer

from ..exceptions import ParameterError
from .endings import end
from .options import Device, Dtype, Seed, number, to_path


def compare(
    studies: Annotated[
        list[Path],
        typer.Argument(parser=to_path, metavar="DATASET...", help="A dataset with several models, or several studies."),
    ],
    networks: Annotated[str | None, typer.Option(help="Name of the networks, if a study holds several.")] = None,
    confounds: Annotated[
        str, typer.Option(help="What to regress out: position, frequency, punctuation, surprisal; or none.")
    ] = "position,frequency",
    kept_at: Annotated[float, number("Correlation from which a network counts as kept.", above=0, below=1)] = 0.7,
    n_draws: Annotated[int, number("Circular shifts for each p-value.", least=1)] = 99,
    random_state: Seed = 0,
):
    """Compare the networks of several models.

    Networks are matched by their time courses on words, on one half of the documents, and scored on the other. The
    result is written into the study of the first model, whose report then shows it.
    """
    from ..dataset import find_studies
    from ..subjects.comparison import compare_studies
    from ..subjects.confounds import CONFOUNDS

    chosen = [] if confounds == "none" else [CONFOUNDS.check(name) for name in confounds.split(",")]
    opened = [study for folder in studies for study in find_studies(folder)]
    options = {"networks": networks, "confounds": chosen, "kept_at": kept_at, "n_draws": n_draws}
    found = compare_studies(opened, **options, random_state=random_state)
    paths = found.save(opened[0])
    typer.echo(found.fates().to_string(index=False))
    typer.echo("\nMean correlation of matched networks on held-out documents:")
    typer.echo(found.similarity.round(3).to_string())
    typer.echo("\nNetworks of the first model that the models share:")
    table = found.shared.sort_values("isc", ascending=False)[["network", "isc", "q", "n_kept", "words"]]
    typer.echo(table.round(3).to_string(index=False))
    if "effect" in found.pairs:
        typer.echo("\nEffects of the lesions of networks of the first model, and of their matches:")
        columns = ["other", "network", "match", "score", "fate", "effect", "match_effect"]
        both = found.pairs[found.pairs["model"] == opened[0].name].dropna(subset=["effect", "match_effect"])
        typer.echo(both[columns].round(3).to_string(index=False))
    for note in found.info["notes"]:
        typer.echo(note, err=True)
    end(paths, "llmbrain", "report", *((studies[0], "--group") if len(studies) == 1 else (opened[0],)))


def fingerprint(
    model: Annotated[str, typer.Argument(help="'demo', a hub id, a folder, a .gguf file, or a fingerprint.")],
    other: Annotated[str | None, typer.Argument(help="A second one, to compare with.")] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", parser=to_path, metavar="PATH", help="File to write, ending in .safetensors."),
    ] = None,
    text: Annotated[
        str, typer.Option(help="Text to read. Only fingerprints on the same text are comparable.")
    ] = "demo",
    n_texts: Annotated[
        int, number("Number of texts; half to choose pairs of neurons, half to score them.", least=2)
    ] = 10,
    n_neurons: Annotated[int, number("Neurons of each of four layers.", least=2)] = 128,
    dtype: Dtype = "float32",
    device: Device = "cpu",
):
    """Write the fingerprint of a model, or compare two.

    A fingerprint holds the time courses of some neurons on known texts, and no weights. Comparing two tells whether one
    model descends from the other, with the error rates of that decision.
    """
    from ..files import check_apart
    from ..models import describe_model
    from ..subjects.descent import compare_fingerprints, refuse_unequal
    from ..subjects.fingerprints import Fingerprint, check_fingerprint_file, described, standard_texts
    from ..subjects.fingerprints import fingerprint as make

    if other is not None and out is not None:
        raise ParameterError("--out belongs to one model. Make the fingerprints first, then compare the two files.")
    sources = [source for source in (model, other) if source is not None]
    if other is None and model.endswith(".safetensors"):
        raise ParameterError(f"{model} is a fingerprint already. Name a second one to compare it with.")
    if out is not None and out.suffix != ".safetensors":
        raise ParameterError(f"--out {out} must end in .safetensors.")
    if out is not None:
        check_fingerprint_file(out)
        check_apart(out, [model, text], around=False)
    wanted = described(standard_texts(text, n_texts), n_neurons)  # raises before a model is loaded
    made = {s: Fingerprint.load(s) for s in sources if s.endswith(".safetensors")}
    if len(made) < len(set(sources)):
        for source, known in made.items():
            refuse_unequal(known.info, wanted, f"{source} and {other if source == model else model}")
    options = {"text": text, "n_texts": n_texts, "n_neurons": n_neurons}
    if other is None:
        loaded = _load(model, dtype, device)
        out = check_fingerprint_file(out or f"{Path(describe_model(loaded[0])['id']).name}.safetensors")
        path = make(*loaded, **options).save(out)
        typer.echo(f"The fingerprint is at {path} ({path.stat().st_size / 1000:.0f} kB)")
        return
    made |= {s: make(*_load(s, dtype, device), **options) for s in sources if s not in made}
    typer.echo(compare_fingerprints(made[model], made[other]))


def _load(source, dtype, device):
    from ..models import load_model

    typer.echo(f"Reading texts with {source} ...", err=True)
    return load_model(source, dtype=dtype, device=device)

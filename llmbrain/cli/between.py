"""Commands that compare models."""

from pathlib import Path
from typing import Annotated

import typer

from ..exceptions import ParameterError
from .options import Device, Dtype, _path, number


def fingerprint(
    model: Annotated[str, typer.Argument(help="'demo', a hub id, a folder, a .gguf file, or a fingerprint.")],
    other: Annotated[str | None, typer.Argument(help="A second one, to compare with.")] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", parser=_path, metavar="PATH", help="File to write, ending in .safetensors."),
    ] = None,
    texts: Annotated[
        str, typer.Option(help="Text to read. Only fingerprints on the same text are comparable.")
    ] = "demo",
    n_texts: Annotated[int, number("Number of texts; a third each to fit, choose and score.", least=3)] = 10,
    n_components: Annotated[int, number("Networks at each site.", least=2)] = 20,
    dtype: Dtype = "float32",
    device: Device = "cpu",
):
    """Write the fingerprint of a model, or compare two.

    A fingerprint holds the time courses of the model's networks on known texts, and no weights. Comparing two tells
    whether one model descends from the other, with the error rates of that decision.
    """
    from ..subjects.fingerprints import Fingerprint, compare_fingerprints, standard_texts

    if other is not None and out is not None:
        raise ParameterError("--out belongs to one model. Make the fingerprints first, then compare the two files.")
    sources = [source for source in (model, other) if source is not None]
    if other is None and model.endswith(".safetensors"):
        raise ParameterError(f"{model} is a fingerprint already. Name a second one to compare it with.")
    if out is not None and out.suffix != ".safetensors":
        raise ParameterError(f"--out {out} must end in .safetensors.")
    standard_texts(texts, n_texts)  # raises before a model is loaded
    made = {s: Fingerprint.load(s) for s in sources if s.endswith(".safetensors")}
    options = {"texts": texts, "n_texts": n_texts, "n_components": n_components}
    made |= {s: _make(s, options, dtype, device) for s in sources if s not in made}
    if other is not None:
        typer.echo(compare_fingerprints(made[model], made[other]))
        return
    path = made[model].save(out or Path(f"{Path(made[model].info['model']['id']).name}.safetensors"))
    typer.echo(f"The fingerprint is at {path} ({path.stat().st_size / 1000:.0f} kB)")


def _make(source, options, dtype, device):
    from ..models import load_model
    from ..subjects.fingerprints import fingerprint as make

    typer.echo(f"Reading {options['n_texts']} texts with {source} ...", err=True)
    return make(*load_model(source, dtype=dtype, device=device), **options)

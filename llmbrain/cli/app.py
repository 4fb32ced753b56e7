"""The commands, in the order of the help."""

from typing import Annotated

import typer

from . import between, show, smaller, study
from .options import in_one_process, in_processes, of_one_model

app = typer.Typer(
    name="llmbrain",
    help="Neuroimaging-style analysis of language models: record activations as pseudo-fMRI, find functional networks, "
    "lesion them, prune with them, and write a report. 'llmbrain run' does all of this; most other commands are its "
    "steps.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool):
    if wanted:
        from .. import __version__

        typer.echo(f"llmbrain {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
):
    """Options before the command; main() handles --debug itself."""


SHARED = (study.record, study.networks, study.lesion, smaller.prune, smaller.grid)  # between several processes

for command in (
    study.run,
    study.record,
    study.networks,
    study.lesion,
    smaller.prune,
    smaller.grid,
    smaller.evaluate,
    study.merge,
    between.compare,
    between.fingerprint,
    show.view,
    show.report,
    show.info,
):
    placed = in_processes if command in SHARED else in_one_process
    app.command()(placed(of_one_model(command)))

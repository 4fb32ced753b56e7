"""The command line itself: its commands, in the order in which the help lists them."""

from typing import Annotated

import typer

from . import smaller, study

app = typer.Typer(
    name="llmbrain",
    help="Neuroimaging-style analysis of language models: record activations as pseudo-fMRI, find functional networks, "
    "lesion them, prune by them, and report. 'llmbrain run' does all of it; every other command is one station of it.",
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
    """Read the options that stand before the command; main() looks for --debug itself."""


for command in (
    study.run,
    study.record,
    study.networks,
    study.lesion,
    smaller.prune,
    smaller.grid,
    smaller.evaluate,
    study.report,
    study.info,
):
    app.command()(command)

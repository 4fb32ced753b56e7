"""Commands that show a study."""

from pathlib import Path
from typing import Annotated

import typer

from ..exceptions import DatasetError, ParameterError
from .endings import end
from .options import Device, Networks, Session, StudyFolder, Subject, number


def report(
    study: StudyFolder,
    networks: Networks = None,
    group: Annotated[
        bool, typer.Option("--group", help="Of all models of a dataset: what they share (after 'llmbrain compare').")
    ] = False,
):
    """Write the report of a study: one HTML file."""
    from ..dataset import as_study

    if not group:
        as_study(study)  # refuses what is not a study before the seconds that the next imports take
    from ..reporting import generate_group_report, generate_report

    if group:
        if not isinstance(study, Path) or networks is not None:
            raise ParameterError("--group is about all models. Leave out --subject, --session and --networks.")
        end([generate_group_report(study).save()], "Open it in a browser.")
        return
    end([generate_report(study, networks=networks).save()], "llmbrain", "view", study)


def view(
    study: StudyFolder,
    networks: Networks = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Where the study's model is now.")] = None,
    no_model: Annotated[
        bool, typer.Option("--no-model", help="Show the study without its model; no new text can be read.")
    ] = False,
    mask: Annotated[
        list[Path] | None, typer.Option(help="File of a mask of your own that can be lesioned; repeat for several.")
    ] = None,
    port: Annotated[int, number("Port of the page; 0 for any free one.", least=0, most=65535)] = 0,
    host: Annotated[
        str, typer.Option(help="Address to listen on; other machines can reach any but the default.")
    ] = "127.0.0.1",
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Print the address, and open no browser.")] = False,
    device: Device = "auto",
):
    """Explore a study on a local page.

    Type a text and watch the networks, lesion them, look at maps and volumes, and label networks by hand. The page
    runs until it is interrupted with Ctrl-C. Needs the extra 'view': pip install 'llmbrain[view]'.
    """
    import webbrowser

    from ..pipeline import load_study_model
    from ..viewer.explorer import Explorer
    from ..viewer.security import LOOPBACK
    from ..viewer.server import serve

    if no_model and model is not None:
        raise ParameterError("--no-model and --model contradict each other. Leave one out.")
    load = None if no_model else lambda: load_study_model(study, model, device=device)
    explorer = Explorer(study, load, mask or (), networks)

    def announce(address):
        typer.echo(f"The page is at {address}\nIt holds a secret: whoever has this address can use it. Ctrl-C ends it.")
        if host not in LOOPBACK:
            typer.echo(f"Other machines can reach it, because of --host {host}.", err=True)
        if not no_browser:
            webbrowser.open(address)

    serve(explorer, host=host, port=port, announce=announce)


def info(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL OR STUDY]",
            help="A model or a study folder to describe; without one, versions and devices are shown.",
        ),
    ] = None,
    max_tokens: Annotated[int, number("Tokens of the recording whose size is shown.", least=2)] = 10_000,
    check: Annotated[
        bool, typer.Option("--check", help="Look for damaged files in a study: all results, and some volumes per run.")
    ] = False,
    check_all: Annotated[bool, typer.Option("--check-all", help="Like --check, and read every volume.")] = False,
    subject: Subject = None,
    session: Session = None,
):
    """Show versions and devices, or describe a model or a study.

    With a model: its sites, their sizes and geometry, and the size of a recording. With a study: its runs and results,
    and which of them are damaged or out of date; the exit code is 2 if any file is damaged.
    """
    from ..dataset import Study, find_studies, holds_study
    from ..pipeline import describe_environment, describe_sites, inspect_study

    folder = model is not None and holds_study(model)
    if (check or check_all) and not folder:
        raise ParameterError(f"--check needs a study folder; {model!r} is none." if model else "--check needs a study.")
    if not folder:
        typer.echo(describe_environment() if model is None else describe_sites(model, max_tokens))
        end([], "llmbrain", *(("record", "--model", model) if model else ("run",)), "--out", "study")
        return
    named = subject is not None or session is not None
    damaged = []
    for study in [Study.open(model, subject, session)] if named else find_studies(model):
        state = inspect_study(study, "all" if check_all else "sample" if check else "headers")
        typer.echo(str(state))
        damaged += state.damaged
    if damaged:
        n = len(damaged)
        raise DatasetError(f"{n} {'file is' if n == 1 else 'files are'} damaged; see above.")
    if check or check_all:
        typer.echo("No file is damaged.")
    else:
        typer.echo("The activations were not read; --check and --check-all look for damage in them, too.")

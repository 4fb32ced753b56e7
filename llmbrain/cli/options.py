"""Options that several commands share, the ranges of their numbers, and how their texts are read."""

import contextlib
import functools
import inspect
import io
import math
import warnings
from operator import ge, gt, le, lt
from pathlib import Path
from typing import Annotated

import typer

from ..exceptions import ParameterError
from ..parallel import launched, main_process, processes
from ..registry import choose


def number(help, *names, least=None, most=None, above=None, below=None):
    """Option for a number in a range, which its help shows; numbers outside are refused before any work.

    ``names`` on the command line default to that of the parameter; ``above`` and ``below`` exclude the ends.
    """
    ends = (("at least", ge, least), ("at most", le, most), ("above", gt, above), ("below", lt, below))
    ends = [one for one in ends if one[2] is not None]
    allowed = " and ".join(f"{word} {end}" for word, _, end in ends) or "finite"
    if least is not None and most is not None:
        allowed = f"{least} to {most}"

    def check(value):
        if value is not None and not (math.isfinite(value) and all(fits(value, end) for _, fits, end in ends)):
            raise typer.BadParameter(f"{value} is out of range. It must be {allowed}.")
        return value

    return typer.Option(*names, help=f"{help} [{allowed}]" if ends else help, callback=check)


def to_path(text):
    """Turn an argument into a path, and refuse an empty one."""
    if not str(text).strip():
        raise typer.BadParameter("the path is empty. Name a folder or a file.")
    return Path(text)


Model = Annotated[str, typer.Option("--model", "-m", help="'demo', a hub id, a folder, or a .gguf file.")]
TEXTS = "'demo', a text file, a folder of texts, a .jsonl file, or hub:dataset"
Text = Annotated[str, typer.Option("--text", "-t", help=f"The text to read: {TEXTS}.")]
TestText = Annotated[
    str | None, typer.Option("--test-text", help="Other text, to measure on; by default the held-out part of the demo.")
]
MaxTokens = Annotated[int | None, number("Maximum number of tokens of the text.", "--max-tokens", least=2)]
MaxTokensOrAll = Annotated[
    int | None, number("Maximum number of tokens of the text; all of it by default.", "--max-tokens", least=2)
]
MaxTestTokens = Annotated[int | None, number("Maximum number of test tokens.", "--max-test-tokens", least=2)]
Out = Annotated[
    Path,
    typer.Option("--out", "-o", parser=to_path, metavar="PATH", help="Folder to write; created if it is missing."),
]
OutFile = Annotated[
    Path,
    typer.Option("--out", "-o", parser=to_path, metavar="PATH", help="TSV to write; its rows are not run again."),
]
StudyFolder = Annotated[
    Path,
    typer.Argument(parser=to_path, metavar="STUDY", help="Study folder from 'llmbrain record' or 'llmbrain run'."),
]
Networks = Annotated[str | None, typer.Option(help="Name of the networks, if the study holds several.")]
ChosenNetworks = Annotated[
    str | None,
    typer.Option(
        "--networks",
        help="Name of the networks, if the study holds several; accepted, not-rejected (see 'llmbrain view') or "
        "numbers choose some, e.g. canica20:accepted or 0,4-6.",
    ),
]
Dtype = Annotated[
    str, typer.Option(help="auto (that of the files on a GPU, else float32), float32, bfloat16 or float16.")
]
Device = Annotated[str, typer.Option(help="auto (a GPU if there is one), cpu, cuda, cuda:1.")]
Seed = Annotated[int, number("Seed of everything random.", "--random-state", least=0, most=2**32 - 1)]
Threshold = Annotated[float, number("A neuron belongs to a network if its |z| exceeds this.", above=0)]
Ratio = Annotated[float, number("Share to remove.", above=0, below=1)]
Context = Annotated[int, number("Tokens of context.", least=2)]
Bos = Annotated[str, typer.Option("--bos", help="BOS at the head of every window: auto, yes or no.")]
Share = Annotated[
    str | None,
    typer.Option("--share", help="Do only this share, e.g. 3/40, as one job of an array; then run llmbrain merge."),
]


Subject = Annotated[
    str | None, typer.Option("--subject", help="Label of the model, if the dataset holds several (sub-).")
]
Session = Annotated[
    str | None, typer.Option("--session", help="Label of the checkpoint, if the dataset holds several (ses-).")
]


def of_one_model(command):
    """Give a command on a study the options ``--subject`` and ``--session``; other commands are returned unchanged."""
    parameters = inspect.signature(command).parameters
    if "study" not in parameters:
        return command

    @functools.wraps(command)
    def run(*args, subject=None, session=None, **options):
        from ..dataset import Study

        if subject is not None or session is not None:
            if options.get("study") is None:
                raise ParameterError("--subject and --session choose a model of a study. Add --study FOLDER.")
            options["study"] = Study.open(options["study"], subject, session)
        return command(*args, **options)

    labels = {"subject": Subject, "session": Session}
    added = [
        inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=a) for n, a in labels.items()
    ]
    run.__signature__ = inspect.Signature([*parameters.values(), *added])
    run.__annotations__ = {**command.__annotations__, **labels}
    return run


def in_processes(command):
    """Let the processes of torchrun or srun share the work of a command; the first of them prints."""

    @functools.wraps(command)
    def run(*args, **options):
        with processes(gpus_per_rank=options.get("gpus_per_rank", 1)), contextlib.ExitStack() as stack:
            if not main_process():
                stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
                warnings.simplefilter("ignore")
            return command(*args, **options)

    return run


def in_one_process(command):
    """Refuse several processes for a command that has no work to share."""

    @functools.wraps(command)
    def run(*args, **options):
        if launched() > 1:
            raise ParameterError(
                f"'llmbrain {command.__name__}' runs in one process, but {launched()} were started. Start it without "
                "torchrun or srun."
            )
        return command(*args, **options)

    return run


def read_bos(text):
    """The value of ``bos=`` for ``auto``, ``yes`` or ``no``."""
    return {"auto": "auto", "yes": True, "no": False}[choose("value of --bos", text, ("auto", "yes", "no"))]

"""Options that several commands have, and how their text is read."""

from pathlib import Path
from typing import Annotated

import typer

from ..exceptions import ParameterError

Model = Annotated[str, typer.Option("--model", "-m", help="'demo', a hub id, a folder, or a .gguf file.")]
CorpusOption = Annotated[
    str, typer.Option("--corpus", "-c", help="'demo', a text file, a folder of texts, a .jsonl file, or hub:dataset.")
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder to write; made if it is missing.")]
StudyFolder = Annotated[Path, typer.Argument(help="A study folder, as 'llmbrain record' or 'llmbrain run' wrote it.")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16, float16, or auto.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, or auto.")]
Seed = Annotated[int, typer.Option("--random-state", help="Seed of everything that is drawn.")]


def numbers(option, text):
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

"""Run the notebooks and write them with their outputs: ``python notebooks/build.py [01 04 ...]``.

The scripts ``0?_*.py`` (py:percent) are what is edited; the notebooks of the same names are made from them, run from
the first cell to the last. Nothing in the outputs depends on where that happened.
"""

import argparse
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import jupytext
import nbclient
import nbformat

HERE = Path(__file__).resolve().parent
PROGRESS = re.compile(r"\d+%\||\d+(token|layer|it)\b|it/s|s/it|^\[transformers\]")  # lines of tqdm, and of a log
SHORTER = {  # what quick runs leave out besides what the notebooks do: half of the text, and what costs most
    "[union, core, *masks[:3]],\n    tasks": "[union, masks[0]],\n    tasks",
    '"gain": (0.0, 0.5, 1.0, 1.5, 2.0)': '"gain": (0.0, 1.0, 2.0)',
    "[5, 10, 15, 20, 30], n_init=2": "[5, 10], n_init=2",
    'recipe="fast", allocation="power", progress': 'recipe="flap", progress',
    '"max_tokens": 512 if quick': '"max_tokens": 128 if quick',
    'recipe="fast",\n    allocation="power",\n    options': 'recipe="flap",\n    options',
    'recipe="fast", allocation="power", options=options': 'recipe="flap", options=options',
    "max_tokens=60 if quick": "max_tokens=24 if quick",
    "n_tokens = 200 if quick": "n_tokens = 60 if quick",
    '"max_tokens": 300 if quick': '"max_tokens": 120 if quick',
    "max_new_tokens=24": "max_new_tokens=6",
    "d.text[:700]": "d.text[:260]",
    '    lb.Recipe("flap", "uniform", "affine", options),\n': "",
    '    lb.Recipe("network", "uniform", "affine", options, networks),\n': "",
}
WARNINGS = "ignore:IProgress not found"  # tqdm, where ipywidgets is missing; the bars are left out anyway


def scripts(names=()):
    """Paths of the scripts, all or those whose names begin with one of ``names``."""
    found = sorted(HERE.glob("[0-9]*.py"))
    return [path for path in found if not names or path.name.startswith(tuple(names))]


def read(script):
    """The notebook of a script, without outputs, with the same cell ids every time."""
    notebook = jupytext.read(script)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"{script.name[:2]}-{number:02d}"
        cell["metadata"] = {}
    notebook.metadata = nbformat.from_dict(
        {
            "jupytext": {"formats": "ipynb,py:percent"},
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"file_extension": ".py", "name": "python", "pygments_lexer": "ipython3"},
        }
    )
    return notebook


def execute(notebook, folder, *, quick=False, timeout=None):
    """Run all cells in a folder.

    Parameters
    ----------
    notebook : nbformat.NotebookNode
    folder : path-like
        Where the kernel works; recordings that notebooks share stay there.
    quick : bool
        Set ``LLMBRAIN_QUICK``, which the notebooks read to take less of everything.
    timeout : int, optional
        Most seconds for a cell; no limit by default.

    Returns
    -------
    nbformat.NotebookNode
        The same notebook, with outputs.
    """
    environment = {k: v for k, v in os.environ.items() if k not in ("MPLBACKEND", "LLMBRAIN_QUICK")}
    environment.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", PYTHONWARNINGS=WARNINGS)
    if quick:
        environment["LLMBRAIN_QUICK"] = "1"
        for cell in notebook.cells:
            for much, less in SHORTER.items():
                cell.source = cell.source.replace(much, less)
    client = nbclient.NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    )
    kernel = notebook.metadata["language_info"]
    client.execute(env=environment)
    notebook.metadata["language_info"] = kernel  # the kernel writes its own version there
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = _without_progress(cell.outputs)
    return notebook


def retell(notebook, executed):
    """Take the outputs of an executed notebook whose code is the same, so that a change of words runs nothing again.

    Parameters
    ----------
    notebook : nbformat.NotebookNode
        From :func:`read`.
    executed : nbformat.NotebookNode

    Returns
    -------
    nbformat.NotebookNode
        The first, with the outputs of the second.
    """
    ours, theirs = ([c for c in book.cells if c.cell_type == "code"] for book in (notebook, executed))
    if [c.source for c in ours] != [c.source for c in theirs]:
        raise SystemExit("The code has changed since it ran; run it again, without --text.")
    for mine, done in zip(ours, theirs):
        mine.outputs, mine.execution_count = _without_progress(done.outputs), done.execution_count
    return notebook


def _without_progress(outputs):
    """Leave out progress bars and the addresses of legends and axes, and join what was printed in pieces."""
    kept = []
    for output in outputs:
        if output.output_type == "execute_result" and output.data.get("text/plain", "").startswith("<matplotlib."):
            continue
        if output.output_type == "stream":
            if output.name == "stderr":
                lines = re.split(r"[\r\n]+", output.text)
                output.text = "".join(f"{line}\n" for line in lines if line.strip() and not PROGRESS.search(line))
            if not output.text.strip():
                continue
            if kept and kept[-1].output_type == "stream" and kept[-1].name == output.name:
                kept[-1].text += output.text
                continue
        kept.append(output)
    return kept


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="numbers of the notebooks; all if none is given")
    parser.add_argument("--quick", action="store_true", help="less of everything; leave the notebooks here as they are")
    parser.add_argument("--text", action="store_true", help="only the words have changed: keep the outputs")
    parser.add_argument("--folder", type=Path, help="work here and keep it, instead of in a temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        target = folder if options.quick else HERE
        for script in scripts(options.names):
            start = time.perf_counter()
            notebook = read(script)
            if options.text:
                executed = nbformat.read(script.with_suffix(".ipynb"), as_version=4)
                nbformat.write(retell(notebook, executed), script.with_suffix(".ipynb"))
                continue
            try:
                execute(notebook, folder, quick=options.quick)
            finally:  # also half run, to see where it stopped
                nbformat.write(notebook, target / f"{script.stem}.ipynb")
            print(f"{script.name}: {time.perf_counter() - start:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()

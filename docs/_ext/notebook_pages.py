"""Pages of the executed notebooks: markdown, code and outputs as they are in the files, with nothing run again."""

import base64
import re
from pathlib import Path

import nbformat

FENCE = "`````"


def write_pages(app):
    """Write a markdown page and its pictures for every notebook."""
    target = Path(app.srcdir) / "notebooks"
    target.mkdir(exist_ok=True)
    found = sorted((Path(app.srcdir).parent / "notebooks").glob("[0-9]*.ipynb"))
    for path in found:
        notebook = nbformat.read(path, as_version=4)
        parts = [_cell(cell, f"{path.stem}-{i}", target) for i, cell in enumerate(notebook.cells)]
        _write(target / f"{path.stem}.md", "\n\n".join(parts))
    names = "\n".join(path.stem for path in found)
    text = "Executed on the demo model; the files are in the folder `notebooks`, as `.ipynb` and as scripts."
    _write(target / "index.md", f"# Notebooks\n\n{text}\n\n```{{toctree}}\n:maxdepth: 1\n\n{names}\n```")


def _write(path, text):
    """Write only what changed, so that unchanged pages are not built again."""
    if not path.is_file() or path.read_text(encoding="utf-8") != text + "\n":
        path.write_text(text + "\n", encoding="utf-8")


def _cell(cell, name, target):
    if cell.cell_type == "markdown":
        text = cell.source.replace("](../benchmarks/RESULTS.md)", "](../results.md)")
        return re.sub(r"\]\((\w+)\.ipynb\)", r"](\1.md)", text)
    outputs = [_output(output, f"{name}-{i}", target) for i, output in enumerate(cell.outputs)]
    return "\n\n".join([f"{FENCE}python\n{cell.source}\n{FENCE}", *filter(None, outputs)])


def _output(output, name, target):
    if output.output_type == "stream":
        return f"{FENCE}text\n{output.text.rstrip()}\n{FENCE}"
    data = output.get("data", {})
    if "image/png" in data:
        picture = base64.b64decode(data["image/png"])
        path = target / f"{name}.png"
        if not path.is_file() or path.read_bytes() != picture:
            path.write_bytes(picture)
        return f"![Figure made by the cell above]({path.name})"
    if "text/html" in data:
        return f'{FENCE}{{raw}} html\n<div class="pst-scrollable-table-container">{data["text/html"]}</div>\n{FENCE}'
    return f"{FENCE}text\n{data['text/plain']}\n{FENCE}" if "text/plain" in data else ""


def setup(app):
    """Write the pages before the sources are read."""
    app.connect("builder-inited", write_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

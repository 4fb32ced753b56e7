"""The documentation: the reference names everything public, the gallery shows every figure."""

import importlib
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parent.parent / "docs"
if not DOCS.is_dir():
    pytest.skip("the documentation is not in an installed package", allow_module_level=True)

ROOMS = (
    "models", "text", "geometry", "masks", "stats", "files", "dataset", "topography", "recording",
    "networks", "evaluation", "lesions", "pruning", "plotting", "reporting", "pipeline",
)  # fmt: skip


def _reference():
    """Objects that docs/api.rst lists, as ``module.name``."""
    module, names = "", set()
    for line in (DOCS / "api.rst").read_text(encoding="utf-8").splitlines():
        if line.startswith(".. currentmodule::"):
            module = line.split("::")[1].strip()
        elif re.fullmatch(r" {3}\w+", line):
            names.add(f"{module}.{line.strip()}")
    return names


def test_reference_lists_what_exists():
    for name in _reference():
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name


@pytest.mark.parametrize("room", ROOMS)
def test_reference_lists_all_that_a_room_offers(room):
    """Functions and classes of ``__all__``; tables of settings are described where they are used."""
    module = importlib.import_module(f"llmbrain.{room}")
    public = [name for name in getattr(module, "__all__", ["NeuronGeometry"]) if callable(getattr(module, name))]
    listed = {name.rpartition(".")[2] for name in _reference() if name.startswith(f"llmbrain.{room}")}
    assert sorted(set(public) - listed) == []


def test_gallery_shows_every_figure():
    from llmbrain import plotting

    examples = "\n".join(path.read_text(encoding="utf-8") for path in (DOCS / "examples").glob("plot_*.py"))
    assert [name for name in plotting.__all__ if f"plotting.{name}(" not in examples] == []


def test_examples_are_small():
    """Nothing in the gallery needs the demo model or a network."""
    for path in (DOCS / "examples").glob("*.py"):
        assert not re.search(r"load_model|load_corpus|from_pretrained", path.read_text(encoding="utf-8")), path.name


def test_every_page_is_in_the_index():
    """Each page of the documentation is listed under one of the four kinds."""
    listed = re.findall(r"^([a-z_]+)$", (DOCS / "index.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    made = {"index", "sg_execution_times"}  # the latter is a log of make docs
    pages = {path.stem for path in [*DOCS.glob("*.md"), *DOCS.glob("*.rst")]} - made
    assert sorted(listed) == sorted(pages)


@pytest.mark.demo
@pytest.mark.parametrize("page", ["coming_from", "own_task"])
def test_python_of_a_page_runs(page, demo_model, capsys):
    """Every block, in order, with fewer controls."""
    del demo_model  # skips where the demo model is missing
    source = "".join(re.findall(r"```python\n(.*?)```", (DOCS / f"{page}.md").read_text(encoding="utf-8"), re.DOTALL))
    assert "n_controls=" in source
    fewer = re.sub(r"n_controls=\d+", 'n_controls=2, controls=["layer"]', source.replace('controls=["random"], ', ""))
    exec(compile(fewer, f"{page}.md", "exec"), {"__name__": page})
    assert "their 2 controls" in capsys.readouterr().out

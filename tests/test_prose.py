"""Plain English: idioms that read as translated stay out of the package, its documentation and its notebooks."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOUNS = "row|line|run|file|layer|token|network|neuron|model|step|point|bar|figure|page|stage|document|unit|column"
IDIOMS = {
    rf"\b(a|one) ({NOUNS}) (a|an) \w": "one ... per ...",
    r"\ball there (are|is)\b": "all available ...",
    r"\bgo(es|ne|ing)? on with\b": "resume, continue",
    r"\b(is|are|be) said\b": "is reported, raises a warning",
    r"\bsaid aloud\b": "is reported, raises a warning",
    r"\bturned round\b": "negated, reversed",
    r"\b(hand|hands|handed) on\b": "passes through",
    r"\bgives? back\b": "returns",
    r"\bleaves? alone\b": "does not change",
    r"\basks? for it\b": "requires it",
    r"\b(is|are) told of\b": "is notified of",
    r"\bin silence\b": "silently",
    r"\bbears? out\b": "confirms",
    r"\btakes? the place of\b": "replaces, overrides",
    r"\bto be had\b": "available",
    r"\bwhatever (is|was|are) there\b": "all available ...",
    r"\bonly about\b": "approximately",
    r"\bknown again\b": "identified",
    r"\bspeaks? against\b": "contradicts",
    r"\bso many (tokens|neurons|items|documents)\b": "the given number of ...",
    r"\bby itself alone\b": "alone",
}
FILES = [
    *(ROOT / "llmbrain").rglob("*.py"),
    *(ROOT / "docs").glob("*.md"),
    *(ROOT / "docs" / "examples").glob("*.py"),
    *(ROOT / "notebooks").glob("[0-9]*.py"),
    *(
        ROOT / name
        for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "data/README.md", "benchmarks/RESULTS.md")
    ),
]


def find_idioms(text):
    """Return the idioms in a text, with a few words around each. A line break counts as a space."""
    text = re.sub(r"\s+(#\s)?", " ", text)
    return [text[max(0, m.start() - 20) : m.end() + 20] for idiom in IDIOMS for m in re.finditer(idiom, text)]


def test_idioms_are_found():
    assert len(find_idioms("It has a row a layer.\n    What is not finite is\n    # said aloud.")) == 3
    assert find_idioms("One row per layer. Non-finite values raise a warning.") == []


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_no_idiom(path):
    assert find_idioms(path.read_text(encoding="utf-8")) == []

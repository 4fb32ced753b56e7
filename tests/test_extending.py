"""The examples of docs/extending.md, run in their order on a small model."""

import re
from pathlib import Path

import pytest
from test_house import REGISTRIES
from tiny import tiny_model, tiny_tokenizer

PAGE = Path(__file__).resolve().parents[1] / "docs" / "extending.md"
if not PAGE.is_file():
    pytest.skip("the documentation is not in an installed package", allow_module_level=True)

BLOCK = re.compile(r"(<!-- not run.*-->\n)?```python\n(.*?)```", re.DOTALL)
SECTIONS = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
EXAMPLES = {s.partition("\n")[0]: [m[2] for m in BLOCK.finditer(s) if not m[1]] for s in SECTIONS}


@pytest.fixture(scope="module")
def namespace():
    """What the page begins with; members that the examples add are taken out again."""
    import llmbrain as lb

    before = {path: dict(family._members) for path, family in REGISTRIES.items()}
    texts = ["the cat sat on the mat and then the rain in spain fell on it " * 3 + str(i) * i for i in range(10)]
    yield {"lb": lb, "model": tiny_model("llama"), "tokenizer": tiny_tokenizer(), "texts": texts}
    for path, family in REGISTRIES.items():
        family._members.clear()
        family._members.update(before[path])


def test_each_family_has_an_example():
    wanted = ["score", "allocation", "compensation", "lesion kind", "control family", "ICA contrast", "report section"]
    assert [re.sub("^An? ", "", name) for name in EXAMPLES] == [*wanted, "site", "task", "result"]
    assert all(len(blocks) == 1 for blocks in EXAMPLES.values())


@pytest.mark.parametrize("section", EXAMPLES)
def test_example_runs(section, namespace, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for block in EXAMPLES[section]:
        exec(compile(block, f"extending.md: {section}", "exec"), namespace)

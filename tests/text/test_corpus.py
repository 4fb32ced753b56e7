"""Loading corpora: every source, and the message for every source that cannot be read."""

import json
import os
import re
import sys
import types

import pytest

from llmbrain.exceptions import CorpusError, LLMBrainWarning, ParameterError
from llmbrain.text import Corpus, Document, as_corpus, load_corpus


@pytest.fixture
def corpus():
    """Twelve documents of two kinds in the proportion two to one."""
    return Corpus([Document(f"Text number {i}.", f"d{i}", "ab"[i % 3 == 0]) for i in range(12)], "twelve")


def test_text_file(tmp_path):
    path = tmp_path / "tale.txt"
    path.write_bytes("\ufeffFirst line.\r\nSecond: café.\n".encode())
    corpus = load_corpus(path)
    assert corpus.texts == ["First line.\nSecond: café.\n"]
    assert (corpus.name, corpus.ids) == ("tale", ["tale"])
    assert load_corpus(str(path), name="other").name == "other"


def test_folder_gives_kinds_in_turn(tmp_path):
    for name in ("prose/b.txt", "prose/a.txt", "prose/deep/c.md", "verse/z.txt", "loose.txt", ".hidden/x.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"The text of {name}.")
    corpus = load_corpus(tmp_path)
    assert corpus.ids == ["loose", "prose/a", "verse/z", "prose/b", "prose/deep/c"]
    assert [d.kind for d in corpus] == [None, "prose", "verse", "prose", "prose"]
    assert load_corpus(tmp_path, split="verse").ids == ["z"]
    assert load_corpus(tmp_path, limit=2).ids == ["loose", "prose/a"]
    with pytest.raises(ParameterError, match="no sub-folder"):
        load_corpus(tmp_path, split="heldout")


def test_folder_ids_stay_unique(tmp_path):
    (tmp_path / "a.txt").write_text("one text")
    (tmp_path / "a.md").write_text("another text")
    assert sorted(load_corpus(tmp_path).ids) == ["a.md", "a.txt"]


def test_jsonl(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"text": "First.", "id": 7, "kind": "x"}, {"text": "Second."}]
    path.write_text("\n\n".join(json.dumps(row) for row in rows) + "\n")
    corpus = load_corpus(path)
    assert corpus.ids == ["7", "rows-00003"]
    assert [d.kind for d in corpus] == ["x", None]
    inside = load_corpus(tmp_path)
    assert inside.texts == corpus.texts


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": 1}', r"line 2: no field 'text' \(fields: 'id'\)"),
        ('{"text": ""}', "line 2: 'text' is ''"),
        ('{"text": 5}', "line 2: 'text' is 5"),
        ('["text"]', "line 2: a list"),
        ("{text}", "line 2: not valid JSON"),
    ],
)
def test_bad_jsonl_row(tmp_path, line, message):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "Fine."}\n' + line)
    with pytest.raises(CorpusError, match=message):
        load_corpus(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b" \n\t\n", "is empty"),
        (b"PK\x03\x04\x00\x00", "byte 4 is NUL"),
        ("text".encode("utf-16"), "NUL"),
        ("café".encode("latin1"), "not UTF-8 text .byte 3 is 0xe9"),
    ],
)
@pytest.mark.parametrize("suffix", [".txt", ".jsonl"])
def test_unreadable_file(tmp_path, content, message, suffix):
    path = tmp_path / f"file{suffix}"
    path.write_bytes(content)
    with pytest.raises(CorpusError, match=message):
        load_corpus(path)
    if content:
        with pytest.raises(CorpusError, match=re.escape(str(path))):
            load_corpus(tmp_path)


def test_missing_and_wrong_sources(tmp_path):
    with pytest.raises(CorpusError, match="No file or folder.*pass it in a list"):
        load_corpus(tmp_path / "nothing.txt")
    with pytest.raises(CorpusError, match="pass it in a list"):
        as_corpus("This is a text and no path. " * 400)
    with pytest.raises(CorpusError, match="has no file"):
        load_corpus(tmp_path)
    with pytest.raises(CorpusError, match="type int"):
        load_corpus(3)
    with pytest.raises(CorpusError, match="texts is empty"):
        load_corpus([])
    with pytest.raises(CorpusError, match="Item 2 .* NoneType"):
        load_corpus(["fine", None])
    with pytest.raises(CorpusError, match="'text-0002' is empty"):
        load_corpus(["fine", ""])
    with pytest.raises(ParameterError, match="no splits"):
        load_corpus(["fine"], split="train")
    for limit in (0, 2.5, True):
        with pytest.raises(ParameterError, match="limit"):
            load_corpus(["fine"], limit=limit)


def test_as_corpus(corpus):
    assert as_corpus(corpus) is corpus
    assert as_corpus(corpus[0]).ids == ["d0"]
    assert as_corpus([corpus[0], "and a string"]).ids == ["d0", "text-0002"]
    assert as_corpus("demo").name == "demo"


def test_hub(monkeypatch):
    calls = []

    def load_dataset(path, config, *, split, streaming):
        calls.append((path, config, split, streaming))
        return iter([{"body": f"row {i}" if i % 2 else ""} for i in range(10)])

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    with pytest.warns(LLMBrainWarning, match="5 rows without text"):
        full = load_corpus("hub:owner/data/small:test:body")
    assert len(full) == 5
    assert full.name == "data"
    with pytest.warns(LLMBrainWarning, match="2 rows"):
        assert load_corpus("hub:owner/data::body", limit=2).texts == ["row 1", "row 3"]
    assert calls == [("owner/data", "small", "test", False), ("owner/data", None, "train", True)]
    with pytest.raises(CorpusError, match="has no field 'text'. Its fields are 'body'"):
        load_corpus("hub:owner/data")
    with pytest.raises(CorpusError, match="names no dataset"):
        load_corpus("hub::test")


def test_hub_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(CorpusError, match=r"pip install llmbrain\[hub\]"):
        load_corpus("hub:owner/data")


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path, monkeypatch):
    """It would be another corpus without a word. The rights are denied here, because root has them all."""
    (tmp_path / "prose").mkdir()
    (tmp_path / "a.txt").write_text("The cat.")
    listed = os.scandir

    def denied(path):
        if os.path.basename(path) == "prose":
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(PermissionError, match="prose"):
        load_corpus(tmp_path)

"""Corpora: sources, their errors, tokens, batches, and the stimuli that ship with the package."""

from __future__ import annotations

import json
import re
import sys
import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_model, tiny_tokenizer

from llmbrain.exceptions import CorpusError, LLMBrainWarning, ParameterError
from llmbrain.text import (
    LOCALIZERS,
    Corpus,
    Document,
    TokenizedDocument,
    as_corpus,
    batches,
    data_path,
    encode,
    list_minimal_pairs,
    load_corpus,
    load_localizer,
    load_minimal_pairs,
    padding_id,
    shuffle_words,
)

KINDS = {"arithmetic", "code", "dialogue", "encyclopaedic", "instructions", "narrative"}


@pytest.fixture(scope="module")
def tokenizer():
    """The byte-level tokenizer of the tests."""
    return tiny_tokenizer()


def _token_document(ids, name="d"):
    ids = np.asarray(ids, dtype=np.int64)
    return TokenizedDocument(ids, [str(i) for i in ids], np.zeros(len(ids), bool), name)


# ---------------------------------------------------------------- Corpus


@pytest.fixture
def corpus():
    """Twelve documents of two kinds in the proportion two to one."""
    return Corpus([Document(f"Text number {i}.", f"d{i}", "ab"[i % 3 == 0]) for i in range(12)], "twelve")


def test_corpus_is_a_sequence(corpus):
    assert len(corpus) == 12
    assert corpus[-1].id == "d11"
    assert corpus[2:4].ids == ["d2", "d3"]
    assert isinstance(corpus[:2], Corpus)
    assert [d.id for d in corpus] == corpus.ids
    assert "12 documents" in repr(corpus)
    assert corpus == Corpus(list(corpus), "another name")


def test_corpus_refuses_nothing_and_repeated_ids():
    with pytest.raises(CorpusError, match="no document"):
        Corpus([])
    with pytest.raises(CorpusError, match="'x'"):
        Corpus([Document("one text", "x"), Document("two texts", "x")])
    with pytest.raises(CorpusError, match="type str"):
        Corpus(["a string"])
    with pytest.raises(CorpusError, match="'blank' is empty"):
        Document(" \n", "blank")


def test_hash_names_the_texts_and_their_order_only(corpus):
    renamed = Corpus([Document(d.text, d.id + "x", None) for d in corpus])
    assert renamed.hash == corpus.hash
    assert len(corpus.hash) == 64
    assert Corpus(corpus[::-1].documents).hash != corpus.hash
    # Moving a character over the border of two documents changes the hash.
    assert load_corpus(["ab", "c"]).hash != load_corpus(["a", "bc"]).hash


def test_select(corpus):
    assert corpus.select(kind="b").ids == ["d0", "d3", "d6", "d9"]
    assert corpus.select(ids=["d5", "d1"]).ids == ["d1", "d5"]
    assert corpus.select(kind=["a", "b"]) == corpus
    with pytest.raises(CorpusError, match="kind 'poem'.*'a', 'b'"):
        corpus.select(kind="poem")
    with pytest.raises(CorpusError, match="no document"):
        corpus.select(kind="b", ids="d1")


def test_sample(corpus):
    drawn = corpus.sample(5, random_state=3)
    assert drawn == corpus.sample(5, random_state=3)
    assert len(set(drawn.ids)) == 5
    assert drawn.ids == [i for i in corpus.ids if i in drawn.ids]
    assert corpus.sample(12) == corpus
    for n in (0, 13, 2.0, True):
        with pytest.raises(ParameterError, match="between 1 and 12"):
            corpus.sample(n)


@given(
    kinds=st.lists(st.sampled_from(["a", "b", None]), min_size=2, max_size=30),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_split_is_a_stratified_partition(kinds, fraction, seed):
    corpus = Corpus([Document(f"text {i}", str(i), kind) for i, kind in enumerate(kinds)])
    first, second = corpus.split(fraction, random_state=seed)
    assert sorted(first.ids + second.ids) == sorted(corpus.ids)
    assert len(first) == min(max(round(fraction * len(kinds)), 1), len(kinds) - 1)
    if 1 < len(first) < len(kinds) - 1:
        for kind in set(kinds):
            share = sum(d.kind == kind for d in first) - fraction * kinds.count(kind)
            assert abs(share) < 2


def test_split_errors(corpus):
    for fraction in (0.0, 1.0, 3):
        with pytest.raises(ParameterError, match=r"\(0, 1\)"):
            corpus.split(fraction)
    with pytest.raises(CorpusError, match="one document"):
        corpus[:1].split(0.5)


def test_overlap(corpus):
    assert corpus.overlap(load_corpus(["Text number 4.", "Something else."])) == ["d4"]


# ---------------------------------------------------------------- sources


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
    with pytest.raises(CorpusError, match="holds no file"):
        load_corpus(tmp_path)
    with pytest.raises(CorpusError, match="type int"):
        load_corpus(3)
    with pytest.raises(CorpusError, match="empty list"):
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
    with pytest.raises(CorpusError, match="no field 'text'. There is: 'body'"):
        load_corpus("hub:owner/data")
    with pytest.raises(CorpusError, match="names no dataset"):
        load_corpus("hub::test")


def test_hub_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(CorpusError, match=r"pip install llmbrain\[hub\]"):
        load_corpus("hub:owner/data")


# ---------------------------------------------------------------- tokens


def test_encode_round_trip_and_specials(tokenizer):
    text = "Tea,\twith\nmilk: café"
    (document,) = encode([text], tokenizer)
    assert document.ids[0] == tokenizer.bos_token_id
    assert document.is_special.tolist() == [True] + [False] * (len(document) - 1)
    assert tokenizer.decode(document.ids[1:]) == text
    assert len(document.tokens) == len(document)
    assert all(len(token.splitlines()) == 1 and "\t" not in token for token in document.tokens)
    assert document.tokens[0] == "<s>"
    assert {"\\t", "\\n", " "} <= set(document.tokens)


def test_bos_is_added_where_the_tokenizer_does_not_and_never_twice():
    texts = ["a small text", "and more"]
    own = encode(texts, tiny_tokenizer(add_bos=True))
    ours = encode(texts, tiny_tokenizer(add_bos=False))
    bare = encode(texts, tiny_tokenizer(add_bos=True), add_special_tokens=False)
    for a, b, c in zip(own, ours, bare):
        assert a.ids.tolist() == b.ids.tolist() == [256, *c.ids.tolist()]
        assert not c.is_special.any()


def test_special_marks_inside_the_text_are_marked(tokenizer):
    (document,) = encode(["left</s>right"], tokenizer)
    assert document.ids[document.is_special].tolist() == [256, 257]


def test_encode_keeps_names_and_cuts(tokenizer, corpus):
    tokenized = encode(corpus, tokenizer, max_tokens=5)
    assert [d.id for d in tokenized] == corpus.ids
    assert [d.kind for d in tokenized] == [d.kind for d in corpus]
    assert {len(d) for d in tokenized} == {5}
    with pytest.raises(ParameterError, match="leaves 1 token.* document 'd0'"):
        encode(corpus, tokenizer, max_tokens=2)
    for wrong in (1, 2.5, True):
        with pytest.raises(ParameterError, match="max_tokens"):
            encode(corpus, tokenizer, max_tokens=wrong)


def test_short_document_is_named(tokenizer):
    with pytest.raises(CorpusError, match=r"'tiny' has 1 token \('x'\)"):
        encode([Document("x", "tiny")], tokenizer)
    with pytest.raises(CorpusError, match="has 0 tokens"):
        encode([Document("</s>", "marks")], tokenizer)


@pytest.mark.parametrize("pad_token", ["<pad>", "</s>", None])
def test_padding_id(pad_token):
    assert padding_id(tiny_tokenizer(pad_token=pad_token)) == (258 if pad_token == "<pad>" else 257)
    nothing = types.SimpleNamespace(pad_token_id=None, eos_token_id=None)
    assert padding_id(nothing) == 0


documents_of_ids = st.lists(st.lists(st.integers(0, 299), min_size=1, max_size=20), max_size=15)


@given(
    ids=documents_of_ids,
    batch_size=st.none() | st.integers(1, 6),
    max_batch_tokens=st.none() | st.integers(20, 60),
    pad=st.none() | st.integers(0, 299),
    bucket=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_unpadding_returns_exactly_the_documents(ids, batch_size, max_batch_tokens, pad, bucket):
    tokenized = [_token_document(row, str(i)) for i, row in enumerate(ids)]
    made = list(batches(tokenized, batch_size, max_batch_tokens=max_batch_tokens, pad_token_id=pad, bucket=bucket))
    back = {}
    for batch in made:
        rows, longest = batch.input_ids.shape
        assert rows == len(batch) == len(batch.indices) <= (batch_size or (8 if max_batch_tokens is None else 99))
        assert max_batch_tokens is None or rows * longest <= max_batch_tokens
        assert longest == max(batch.lengths)
        assert batch.attention_mask.sum(dim=1).tolist() == list(batch.lengths)
        assert (batch.position_ids == (batch.attention_mask.cumsum(dim=1) - 1)).all()
        assert (batch.input_ids[batch.attention_mask == 0] == (pad or 0)).all()
        for i, part in zip(batch.indices, batch.unpad(batch.input_ids)):
            back[i] = part.tolist()
    order = [i for batch in made for i in batch.indices]
    assert sorted(order) == list(range(len(ids)))
    assert bucket or order == sorted(order)
    assert [back[i] for i in range(len(ids))] == ids


def test_unpad_takes_flat_values_and_refuses_others():
    batch = next(batches([_token_document([1, 2, 3]), _token_document([4, 5])]))
    values = np.arange(12).reshape(2, 3, 2)
    for given_values in (values, values.reshape(6, 2)):
        parts = batch.unpad(given_values)
        assert [p.tolist() for p in parts] == [values[0].tolist(), values[1, :2].tolist()]
    with pytest.raises(ParameterError, match="do not fit"):
        batch.unpad(np.zeros((5, 2)))
    assert batch.to("cpu").indices == batch.indices


def test_batches_refuse_wrong_limits_at_the_call():
    tokenized = [_token_document(range(10), "long")]
    for wrong in ({"batch_size": 0}, {"max_batch_tokens": 1.5}, {"batch_size": True}):
        with pytest.raises(ParameterError, match="whole number"):
            batches(tokenized, **wrong)
    with pytest.raises(ParameterError, match="'long' has 10 tokens"):
        batches(tokenized, max_batch_tokens=9)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_padded_batch_equals_one_by_one(name, tokenizer):
    import torch

    model = tiny_model(name)
    tokenized = encode(["A short one.", "A text that is somewhat longer.", "Two"], tokenizer)
    (batch,) = batches(tokenized, pad_token_id=padding_id(tokenizer))
    with torch.no_grad():
        together = batch.unpad(model(**batch.inputs).logits)
        for document, logits in zip(tokenized, together):
            alone = model(torch.from_numpy(document.ids)[None]).logits[0]
            torch.testing.assert_close(logits, alone, atol=1e-5, rtol=1e-5)


# ---------------------------------------------------------------- what ships


def test_demo_corpus_has_every_kind_in_both_splits():
    train, heldout = load_corpus("demo"), load_corpus("demo", split="heldout")
    assert set(train.kinds) == set(heldout.kinds) == KINDS
    assert len(train) >= 40
    assert len(heldout) >= 12
    assert train.overlap(heldout) == []
    assert len(load_corpus("demo", split="all")) == len(train) + len(heldout)
    assert set(train[:6].kinds) == KINDS
    with pytest.raises(ParameterError, match="'train' and 'heldout'"):
        load_corpus("demo", split="test")


def test_demo_documents_are_clean():
    corpus = load_corpus("demo", split="all")
    for document in corpus:
        assert 120 <= len(document.text.split()) <= 700, document.id
        assert not re.search(r"[ \t]+$", document.text, re.M), document.id
        assert document.text.endswith("\n"), document.id
        assert "\ufffd" not in document.text, document.id
    paragraphs = [p for d in corpus for p in d.text.split("\n\n") if len(p.split()) > 8]
    assert len(paragraphs) == len(set(paragraphs))


NUMBER = r"\d[\d,]*(?:\.\d+)?"
SIDE = rf"\(*{NUMBER}\)*(?:\s*[-+*/x×÷−]\s*\(*{NUMBER}\)*)*"
# Not the tail of something longer ("2x + 3 = 9", "1/2 of 6 = 3"), nor the head of it ("= 5x", "= 12%").
BEFORE = r"(?<![\w.,/^)=%+*×÷−-])(?<![-+*/x×÷−=] )"
AFTER = r"(?!\s*[-+*/x×÷−^%]|\w|[.,]\d)"
EQUATION = re.compile(rf"{BEFORE}({SIDE})((?:\s*=\s*{SIDE})+){AFTER}")


def _equations(text):
    """Find plain equations such as ``12 + 3 * (4 - 1) = 21`` and give their sides as Python expressions."""
    for found in EQUATION.finditer(text):
        sides = [found[1], *re.split(r"\s*=\s*", found[2])[1:]]
        if all(side.count("(") == side.count(")") for side in sides):
            yield found[0], [side.replace(",", "").translate(str.maketrans("x×÷−", "**/-")) for side in sides]


def test_every_equation_is_right():
    documents = [*load_corpus("demo", split="all").select(kind="arithmetic"), *load_localizer("arithmetic")]
    n = 0
    for document in documents:
        for shown, sides in _equations(document.text):
            values = [eval(side, {"__builtins__": {}}) for side in sides]
            assert np.allclose(values, values[0], rtol=0, atol=1e-9), f"{document.id}: {shown}"
            n += 1
    assert n > 200


def test_python_documents_compile():
    n = 0
    for document in load_corpus("demo", split="all").select(kind="code"):
        if document.id.endswith("-py"):
            compile(document.text, document.id, "exec")
            n += 1
    assert n >= 4


def test_localizers():
    for name, conditions in LOCALIZERS.items():
        corpus = load_localizer(name)
        kinds = [d.kind for d in corpus]
        assert tuple(corpus.kinds) == conditions
        assert kinds.count(conditions[0]) == kinds.count(conditions[1]) >= 40
        assert len(set(corpus.texts)) == len(corpus)
    assert load_localizer("language") == load_localizer("language", random_state=0)
    assert load_localizer("language") != load_localizer("language", random_state=1)
    with pytest.raises(CorpusError, match="Allowed: 'language', 'code', 'arithmetic'"):
        load_localizer("music")


def test_shuffled_words_are_the_same_words():
    sentence = "The old ferry, painted green, left before I woke."
    shuffled = shuffle_words(sentence, 0)
    assert shuffled != sentence
    assert shuffled.endswith(".")
    assert shuffled[0].isupper()
    assert sorted(shuffled.lower()[:-1].split()) == sorted(sentence.lower()[:-1].split())


def test_minimal_pairs_ship():
    names = list_minimal_pairs()
    assert {"arithmetic", "npi_licensing", "reflexive_agreement"} <= set(names)
    assert len(names) == 7
    pairs = load_minimal_pairs()
    assert len({(p.uid, p.pair_id) for p in pairs}) == len(pairs)
    assert len({p.good for p in pairs}) == len(pairs)
    for name in names:
        own = load_minimal_pairs(name)
        assert len(own) == 40
        assert {p.uid for p in own} == {name}
        assert all(p.field and p.term for p in own)
    assert len(load_minimal_pairs(limit=2)) == 14
    assert load_minimal_pairs(data_path("minimal_pairs")) == pairs


def test_arithmetic_pairs_are_right_and_wrong():
    for pair in load_minimal_pairs("arithmetic"):
        for sentence, truth in ((pair.good, True), (pair.bad, False)):
            (((_, sides)),) = list(_equations(sentence))
            assert (eval(sides[0]) == eval(sides[1])) is truth, sentence


def test_minimal_pair_files(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text('{"sentence_good": "She sings.", "sentence_bad": "She sing."}\n')
    (pair,) = load_minimal_pairs(path)
    assert (pair.uid, pair.pair_id) == ("own", "0")
    assert load_minimal_pairs(tmp_path) == [pair]
    path.write_text('{"sentence_good": "She sings."}\n')
    with pytest.raises(CorpusError, match="line 1: needs the fields"):
        load_minimal_pairs(path)
    path.write_text('{"sentence_good": "Same.", "sentence_bad": "Same."}\n')
    with pytest.raises(CorpusError, match="are the same"):
        load_minimal_pairs(path)
    with pytest.raises(CorpusError, match="Allowed: 'all'"):
        load_minimal_pairs("no_such_set")


# ---------------------------------------------------------------- with the real tokenizer


@pytest.mark.demo
def test_demo_tokenizer_gets_bos_and_readable_tokens(demo_model):
    _, tokenizer = demo_model
    assert tokenizer("Hello world")["input_ids"] == [19556, 905]  # no BOS of its own accord
    (document,) = encode(["Hello world"], tokenizer)
    assert document.ids.tolist() == [tokenizer.bos_token_id, 19556, 905] == [1, 19556, 905]
    assert document.tokens == ["<|im_start|>", "Hello", " world"]
    assert document.is_special.tolist() == [True, False, False]
    assert encode(["two lines\n<repo_name>"], tokenizer)[0].is_special.tolist()[-1]


@pytest.mark.demo
def test_localizer_conditions_have_like_token_counts(demo_model):
    _, tokenizer = demo_model
    for name, conditions in LOCALIZERS.items():
        corpus = load_localizer(name)
        totals = [
            sum(len(d) for d in encode(corpus.select(kind=kind), tokenizer, add_special_tokens=False))
            for kind in conditions
        ]
        assert 0.95 < totals[0] / totals[1] < 1.05, (name, totals)


@pytest.mark.demo
def test_demo_corpus_has_about_the_promised_size(demo_model):
    _, tokenizer = demo_model
    for split, low, high in (("train", 20_000, 26_000), ("heldout", 6_000, 8_000)):
        tokenized = encode(load_corpus("demo", split=split), tokenizer, add_special_tokens=False)
        assert low < sum(len(d) for d in tokenized) < high
        assert not any(d.is_special.any() for d in tokenized)
        assert all(300 <= len(d) <= 800 for d in tokenized)

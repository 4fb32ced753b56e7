"""The demo corpus, the minimal pairs and the localizers that ship with the package."""

import re

import numpy as np
import pytest

from llmbrain.exceptions import CorpusError, ParameterError
from llmbrain.text import (
    LOCALIZERS,
    data_path,
    encode,
    list_minimal_pairs,
    load_corpus,
    load_localizer,
    load_minimal_pairs,
    shuffle_words,
)

KINDS = {"arithmetic", "code", "dialogue", "encyclopaedic", "instructions", "narrative"}


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


@pytest.mark.demo
def test_localizer_conditions_have_like_token_counts(demo_model):
    _, tokenizer = demo_model
    for name, conditions in LOCALIZERS.items():
        corpus = load_localizer(name)
        totals = [sum(len(d) for d in encode(corpus.select(kind=kind), tokenizer, bos=False)) for kind in conditions]
        assert 0.95 < totals[0] / totals[1] < 1.05, (name, totals)


@pytest.mark.demo
def test_demo_corpus_has_about_the_promised_size(demo_model):
    _, tokenizer = demo_model
    for split, low, high in (("train", 20_000, 26_000), ("heldout", 6_000, 8_000)):
        tokenized = encode(load_corpus("demo", split=split), tokenizer, bos=False)
        assert low < sum(len(d) for d in tokenized) < high
        assert not any(d.is_special.any() for d in tokenized)
        assert all(300 <= len(d) <= 800 for d in tokenized)

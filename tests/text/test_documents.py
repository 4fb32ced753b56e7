"""Documents and corpora: what they hold, how they are selected, sampled and split."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbrain.exceptions import CorpusError, ParameterError
from llmbrain.text import Corpus, Document, load_corpus


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
        with pytest.raises(ParameterError, match="between 0 and 1"):
            corpus.split(fraction)
    with pytest.raises(CorpusError, match="one document"):
        corpus[:1].split(0.5)


def test_overlap(corpus):
    assert corpus.overlap(load_corpus(["Text number 4.", "Something else."])) == ["d4"]


def test_half_a_character_is_refused():
    """A lone surrogate is no text: tokenizers raise a TypeError for it."""
    with pytest.raises(CorpusError, match=r"half of a character \('\\ud83d'\)"):
        Document("the cat \ud83d", "a")
    for parts in ({"id": "a\udcff"}, {"id": "a", "kind": "\udcff"}):
        with pytest.raises(CorpusError, match=r"half of a character \('\\udcff'\)"):
            Document("the cat", **parts)

"""Token ids: leading special tokens, and tokenising up to a budget."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_tokenizer

from llmbrain.exceptions import CorpusError, ParameterError
from llmbrain.text import (
    Corpus,
    Document,
    data_path,
    describe_bos,
    encode,
    encode_prompts,
    leading_tokens,
)
from llmbrain.text.spans import token_spans
from llmbrain.text.tokens import _text_ids, encode_with_spans


@pytest.fixture(scope="module")
def tokenizer():
    """The byte-level tokenizer of the tests."""
    return tiny_tokenizer()


@pytest.fixture
def corpus():
    """Twelve documents of two kinds in the proportion two to one."""
    return Corpus([Document(f"Text number {i}.", f"d{i}", "ab"[i % 3 == 0]) for i in range(12)], "twelve")


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
    bare = encode(texts, tiny_tokenizer(add_bos=True), bos=False)
    for a, b, c in zip(own, ours, bare):
        assert a.ids.tolist() == b.ids.tolist() == [256, *c.ids.tolist()]
        assert not c.is_special.any()


def test_special_marks_inside_the_text_are_marked(tokenizer):
    (document,) = encode(["left</s>right"], tokenizer)
    assert document.ids[document.is_special].tolist() == [256, 257]


def test_encode_keeps_names_and_cuts(tokenizer, corpus):
    tokenized = encode(corpus, tokenizer, per_document=5)
    assert [d.id for d in tokenized] == corpus.ids
    assert [d.kind for d in tokenized] == [d.kind for d in corpus]
    assert {len(d) for d in tokenized} == {5}
    with pytest.raises(ParameterError, match="leaves 1 token.* document 'd0'"):
        encode(corpus, tokenizer, per_document=2)
    for wrong in (1, 2.5, True):
        with pytest.raises(ParameterError, match="per_document"):
            encode(corpus, tokenizer, per_document=wrong)


def test_short_document_is_named(tokenizer):
    with pytest.raises(CorpusError, match=r"'tiny' has 1 token \('x'\)"):
        encode([Document("x", "tiny")], tokenizer)
    with pytest.raises(CorpusError, match="has 0 tokens"):
        encode([Document("</s>", "marks")], tokenizer)


@pytest.mark.demo
def test_demo_tokenizer_gets_bos_and_readable_tokens(demo_model):
    _, tokenizer = demo_model
    assert tokenizer("Hello world")["input_ids"] == [19556, 905]  # no BOS of its own accord
    (document,) = encode(["Hello world"], tokenizer)
    assert document.ids.tolist() == [tokenizer.bos_token_id, 19556, 905] == [1, 19556, 905]
    assert document.tokens == ["<|im_start|>", "Hello", " world"]
    assert document.is_special.tolist() == [True, False, False]
    assert encode(["two lines\n<repo_name>"], tokenizer)[0].is_special.tolist()[-1]


# ---------------------------------------------------------------- the BOS policy


def without_bos():
    tokenizer = tiny_tokenizer(add_bos=False)
    tokenizer.bos_token = None
    return tokenizer


@pytest.mark.parametrize(
    ("tokenizer", "auto", "true"),
    [(tiny_tokenizer(), (256,), (256,)), (tiny_tokenizer(add_bos=False), (256,), (256,)), (without_bos(), (), None)],
    ids=["adds", "has", "none"],
)
def test_bos_policy(tokenizer, auto, true):
    assert leading_tokens(tokenizer) == auto
    assert leading_tokens(tokenizer, False) == ()
    assert describe_bos(tokenizer, False) == "none"
    assert describe_bos(tokenizer) == ("<s>" if auto else "none")
    if true is None:
        with pytest.raises(ParameterError, match="has no BOS token"):
            leading_tokens(tokenizer, True)
    else:
        assert leading_tokens(tokenizer, True) == true
    for wrong in ("yes", 1, None):
        with pytest.raises(ParameterError, match="choose 'auto', True or False"):
            leading_tokens(tokenizer, wrong)


def test_tokens_that_a_tokenizer_adds_around_a_text_are_kept():
    from tokenizers import processors

    tokenizer = tiny_tokenizer(add_bos=False)
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        single="</s> $A <pad>", special_tokens=[("</s>", 257), ("<pad>", 258)]
    )
    (document,) = encode(["so it is"], tokenizer)
    assert document.ids[:2].tolist() == [256, 257]
    assert document.ids[-1] == 258
    assert (document.n_head, document.head) == (2, "<s> </s>")
    assert encode(["so it is"], tokenizer, per_document=4)[0].ids.tolist() == document.ids[:4].tolist()
    assert encode_prompts(["so it is"], tokenizer)[0].tolist() == document.ids[:-1].tolist()


def test_a_text_that_is_written_with_bos_does_not_get_it_twice(tokenizer):
    assert encode_prompts(["<s>so it is"], tokenizer)[0].tolist() == encode_prompts(["so it is"], tokenizer)[0].tolist()
    assert encode_prompts([""], tokenizer)[0].tolist() == [256]
    assert encode_prompts([""], tokenizer, bos=False)[0].tolist() == []


# ---------------------------------------------------------------- budgets


def test_tokenising_stops_when_the_total_is_met(tokenizer, corpus):
    found = encode(corpus, tokenizer, max_tokens=20)
    assert sum(int((~d.is_special).sum()) for d in found) == 20
    whole = encode(corpus, tokenizer)
    assert len(found) < len(whole)
    for part, document in zip(found, whole):
        assert part.ids.tolist() == document.ids[: len(part)].tolist()


def test_a_long_line_costs_no_more_than_its_budget(tokenizer):
    seen = []

    class Counting:
        bos_token_id, all_special_ids = tokenizer.bos_token_id, tokenizer.all_special_ids
        added_tokens_decoder, decode = tokenizer.added_tokens_decoder, tokenizer.decode
        convert_ids_to_tokens = tokenizer.convert_ids_to_tokens

        def __call__(self, text, **options):
            seen.append(len(text))
            return tokenizer(text, **options)

    line = "the ferry sails on and on " * 100_000
    (document,) = encode([line], Counting(), per_document=500)
    assert len(document) == 500
    assert sum(seen) < 20_000


# Texts that are hard to cut: runs of white space, numbers, code, scripts without spaces, repeats, marks.
PIECES = [
    *(" ", "  ", "\n", "\n\n", "\t", "word", "Word", "12345", "3.14", "don't", "naïve", "日本語", "🙂👩\u200d👧"),
    *("=" * 9, "aaaa", "e\u0301", "x_y(z)", "-->", "العربية", "ß", "\u00a0", "I.", "…", "http://a.b/c?d=1", "нет"),
]
hard_texts = st.lists(st.sampled_from(PIECES), min_size=100, max_size=400).map("".join)


REAL = sorted(map(str, Path(os.environ.get("LLMBRAIN_TEST_MODELS", "no folder")).glob("*.gguf")))


@pytest.mark.parametrize("name", [pytest.param("demo", marks=pytest.mark.demo), *REAL], ids=lambda n: Path(n).stem)
def test_a_prefix_has_the_ids_of_the_whole_text_on_real_tokenizers(name, request):
    """The tokenizers of the demo and of the models in the folder LLMBRAIN_TEST_MODELS."""
    from transformers import AutoTokenizer

    if name == "demo":
        _, tokenizer = request.getfixturevalue("demo_model")  # skips if the demo is absent
    else:
        tokenizer = AutoTokenizer.from_pretrained(Path(name).parent, gguf_file=Path(name).name)
    rng = np.random.default_rng(0)
    natural = Path(data_path("demo", "train")).rglob("*.txt")
    texts = ["".join(path.read_text(encoding="utf-8") for path in natural)[:60_000]]
    texts += ["".join(rng.choice(PIECES, 3000)) for _ in range(20)]
    texts += ["word " * 4000, "日本語テキスト" * 2000, "a" * 20_000, "x=1;" * 5000, " " * 9000 + "end", "12" * 8000]
    for text in texts:
        whole = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        for limit in (1, 7, 50, 400):
            assert _text_ids(tokenizer, text, limit) == whole[:limit], (text[:30], limit)


@given(text=hard_texts, limit=st.integers(1, 60))
@settings(max_examples=60, deadline=None)
def test_a_prefix_has_the_ids_of_the_whole_text(text, limit):
    tokenizer = tiny_tokenizer()
    assert _text_ids(tokenizer, text, limit) == tokenizer(text, add_special_tokens=False)["input_ids"][:limit]


@given(texts=st.lists(hard_texts, min_size=1, max_size=4), most=st.none() | st.integers(2, 900))
@settings(max_examples=20, deadline=None)
def test_documents_of_one_call_are_those_of_single_calls(texts, most):
    tokenizer, left = tiny_tokenizer(), most
    texts = ["<s>begins with its mark", *("w" + text for text in texts)]  # no document is white space alone
    found = encode_with_spans(texts, tokenizer, max_tokens=most)
    for text, (document, spans) in zip(texts, found):
        limit = None if left is None else left + 1
        alone = encode([text], tokenizer)[0].ids[:limit].tolist()
        assert document.ids.tolist()[: len(alone)] == alone[: len(document)]
        left = None if left is None else left - int((~document.is_special).sum())
        np.testing.assert_array_equal(spans, token_spans(tokenizer, text, document.ids))
    assert left == 0 or len(found) == len(texts)


# ---------------------------------------------------------------- spellings

"""Courses planted on characters come back through any tokenizer, and nothing is lost on the way."""

from pathlib import Path

import numpy as np
import pytest
from tiny import tiny_tokenizer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from llmbrain.exceptions import ParameterError
from llmbrain.subjects.alignment import UNITS, Units, align, alignment_matrix, find_units, rebuild_text
from llmbrain.text import encode, token_spans

TEXT = (
    "Héllo  wörld! 你好 🏴‍☠️ don't stop\n\tx=1, y = 22;  e\u0301 naïve … \u3000end\n"
    "The old heron stood in the river, and nobody (not even 3 children) saw it fly away at 12:30."
)


def trained(kind):
    """A small tokenizer of each family, trained on the text."""
    sentences = [TEXT, "the river and the heron", "nobody in the old river"]
    if kind in ("bytes", "composed"):  # byte-level BPE: parts of characters are tokens
        tokenizer = Tokenizer(models.BPE())
        if kind == "composed":  # an accent is joined with its letter
            tokenizer.normalizer = normalizers.NFC()
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, special_tokens=["<s>"])
        tokenizer.train_from_iterator(sentences[1:], trainer)
    elif kind == "fallback":  # pieces, and single bytes for characters that no piece has
        letters = sorted(set("▁abcdefghijklmnopqrstuvwxyzTH.,!()=;:0123'"))
        pieces = [
            "<s>",
            "<unk>",
            *[f"<0x{i:02X}>" for i in range(256)],
            *letters,
            "▁th",
            "▁the",
            "th",
            "er",
            "▁r",
            "in",
        ]
        merges = [("t", "h"), ("▁", "th"), ("▁th", "e"), ("e", "r"), ("▁", "r"), ("i", "n")]
        vocabulary = {piece: i for i, piece in enumerate(pieces)}
        tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True))
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
        tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    else:  # merges across words: no pre-tokenizer keeps them apart
        tokenizer = Tokenizer(models.BPE())
        alphabet = sorted(set(TEXT))
        trainer = trainers.BpeTrainer(vocab_size=len(alphabet) + 60, initial_alphabet=alphabet, special_tokens=["<s>"])
        tokenizer.train_from_iterator([*sentences, *sentences], trainer)
        tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>")


def real(name):
    """The tokenizer of a real model, read from the folder of its dequantised copy, or from its file."""
    import os

    from llmbrain.models.gguf_copies import cached_copy
    from llmbrain.models.loading import demo_file

    if name == "demo":
        path = demo_file()
    else:
        path = Path(os.environ.get("LLMBRAIN_TEST_MODELS", "")) / name
        if not path.is_file():
            pytest.skip(f"{name} (in the folder LLMBRAIN_TEST_MODELS) is not there")
    folder = cached_copy(path)
    if (folder / "tokenizer.json").is_file():
        return AutoTokenizer.from_pretrained(folder)
    return AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)


TOKENIZERS = {
    "bytes": lambda: trained("bytes"),
    "composed": lambda: trained("composed"),
    "fallback": lambda: trained("fallback"),
    "across words": lambda: trained("across"),
    "tiny": tiny_tokenizer,
    "demo": lambda: real("demo"),
    "gemma": lambda: real("gemma-3-270m.gguf"),
    "qwen": lambda: real("qwen2.5-coder-0.5b.gguf"),
}
needs_models = pytest.mark.demo
PARAMETERS = [
    pytest.param(name, marks=needs_models if name in ("demo", "gemma", "qwen") else ()) for name in TOKENIZERS
]


def spans_of(name, text=TEXT):
    tokenizer = TOKENIZERS[name]()
    (document,) = encode([text], tokenizer)
    return document, token_spans(tokenizer, text, document.ids)


@pytest.mark.parametrize("name", PARAMETERS)
def test_tokens_cover_every_character_and_added_ones_none(name):
    document, spans = spans_of(name)
    added = np.arange(len(spans)) < document.n_head
    assert (spans[added] == -1).all() and (spans[~added] >= 0).all()
    units = find_units(TEXT, "character")
    matrix, covered = alignment_matrix(spans, units)
    assert covered.all()
    assert np.allclose(matrix.sum(axis=1), 1)  # each character is the mean of its tokens
    assert (np.diff(spans[~added, 0]) >= 0).all() and spans[~added][-1, 1] == len(TEXT)


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_course_on_characters_comes_back(name):
    """A course that is constant on runs of characters between spaces is known from the tokens, whichever they are."""
    rng = np.random.default_rng(0)
    document, spans = spans_of(name)
    # pieces of the text that no token of this tokenizer crosses, found from the spans' own ends
    inside = spans[spans[:, 0] >= 0]
    crossed = np.zeros(len(TEXT) + 1, int)
    for start, stop in inside:
        crossed[start + 1 : stop] += 1
    cuts = np.flatnonzero(crossed[:-1] == 0)
    course = rng.standard_normal(len(cuts))[np.searchsorted(cuts, np.arange(len(TEXT)), side="right") - 1]
    values = np.full((len(spans), 1), 99.0)  # of added tokens; they must not count
    for i, (start, stop) in enumerate(spans):
        if start >= 0:
            values[i] = course[start:stop].mean()
    assert np.allclose(align(values, spans, find_units(TEXT, "character"))[:, 0], course)
    words = find_units(TEXT)
    expected = [course[a:b].mean() for a, b in words.spans]
    assert np.allclose(align(values, spans, words)[:, 0], expected)


def test_three_tokenizers_agree_on_words():
    """A course with one value per word and its space is recovered exactly by all tokenizers that respect spaces."""
    text = "the river and the old heron stood near three boats"
    starts = [0, *[i for i, c in enumerate(text) if c == " "]]
    rng = np.random.default_rng(1)
    of_word = rng.standard_normal(len(starts))
    course = of_word[np.searchsorted(starts, np.arange(len(text)), side="right") - 1]
    n_tokens = []
    for name in ("bytes", "fallback", "tiny"):
        _, spans = spans_of(name, text)
        values = [course[max(a, 0) : max(b, 1)].mean() for a, b in spans]
        n_tokens.append(len(spans))
        assert np.allclose(align(values, spans, find_units(text)), of_word)
    assert len(set(n_tokens)) == 3  # and they do cut the text differently


@pytest.mark.parametrize("name", ["bytes", "fallback", "across words", "tiny"])
def test_sums_are_conserved(name):
    document, spans = spans_of(name)
    values = np.random.default_rng(0).gamma(2, size=len(spans))
    own = values[spans[:, 0] >= 0].sum()
    assert np.isclose(align(values, spans, find_units(TEXT, "character"), total=True).sum(), own)
    whole = Units(TEXT, np.array([[0, 40], [40, len(TEXT)]]))
    assert np.isclose(align(values, spans, whole, total=True).sum(), own)


@pytest.mark.parametrize("unit", UNITS)
def test_units_are_in_order_and_do_not_overlap(unit):
    units = find_units(TEXT, unit)
    ends = units.spans.ravel()
    assert (np.diff(ends) >= 0).all() and (np.diff(units.spans, axis=1) > 0).all()
    left = "".join(TEXT[a:b] for a, b in zip([0, *units.spans[:, 1]], [*units.spans[:, 0], len(TEXT)]))
    assert not left.strip() and len(units.names) == len(units)
    assert len(find_units("", unit)) == 0


def test_against_plain_loops():
    rng = np.random.default_rng(2)
    _, spans = spans_of("bytes")
    values, units = rng.standard_normal(len(spans)), find_units(TEXT)
    characters = np.full(len(TEXT), np.nan)
    for c in range(len(TEXT)):
        characters[c] = np.mean([v for v, (a, b) in zip(values, spans) if a <= c < b])
    assert np.allclose(align(values, spans, units), [characters[a:b].mean() for a, b in units.spans])


def test_units_behind_the_end_and_missing_values_are_nan():
    text = "one two three"
    spans = [[0, 3], [3, 7], [7, 10]]  # " th" is the last token
    found = align([np.nan, 2.0, 3.0], spans, find_units(text))
    assert np.isnan(found).tolist() == [True, False, True] and found[1] == 2.0


def test_cut_texts_and_chat_templates_keep_their_positions():
    tokenizer = tiny_tokenizer()
    (document,) = encode(["the heron near the river"], tokenizer, max_tokens=8)
    spans = token_spans(tokenizer, "the heron near the river", document.ids)
    assert spans[0].tolist() == [-1, -1] and spans[-1, 1] < 24
    chat = [{"role": "user", "content": "Where is the heron?"}]
    text = tokenizer.apply_chat_template(chat, tokenize=False)
    (document,) = encode([text], tokenizer, bos=False)
    spans = token_spans(tokenizer, text, document.ids)  # the template's own marks are part of the text
    assert "".join(text[a:b] for a, b in spans) == text


def test_ids_of_another_text_are_refused():
    tokenizer = tiny_tokenizer()
    with pytest.raises(ParameterError, match="not those of the text"):
        token_spans(tokenizer, "the heron", tokenizer("a river")["input_ids"])


@pytest.mark.parametrize("name", ["bytes", "fallback", "across words", "tiny"])
def test_texts_are_rebuilt_from_tables(name):
    document, spans = spans_of(name)
    found = rebuild_text(document.tokens, spans)
    assert len(found) == len(TEXT)
    assert all(a == b or a == "\ufffd" for a, b in zip(found, TEXT))
    other, where = spans_of("across words")
    assert rebuild_text(other.tokens, where, into=found) == TEXT

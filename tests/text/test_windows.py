"""Windows and batches: every token once, BOS at every head, budgets, padding."""

import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_model, tiny_tokenizer

from llmbrain.exceptions import CorpusError, ParameterError
from llmbrain.text import (
    TokenizedDocument,
    Window,
    batches,
    cut_windows,
    encode,
    group_windows,
    pad,
    padding_id,
    text_windows,
)

TEXTS = ["the cat sat on the mat and then it rained.", "short one here", "a much longer text " * 9]


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


# ---------------------------------------------------------------- windows


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 300), st.integers(2, 64), st.data())
def test_windows_keep_each_token_once_and_in_order(n_text, context, data):
    n_head = data.draw(st.integers(0, min(3, context - 1)))
    warmup = data.draw(st.none() | st.integers(0, context - n_head - 1))
    longest = data.draw(st.integers(1, 80))
    n_tokens = n_head + n_text
    special = np.arange(n_tokens) < n_head
    document = TokenizedDocument(np.arange(n_tokens) + 7, [""] * n_tokens, special, "d")
    windows = cut_windows(document, context, warmup=warmup, longest=longest, number=5)
    kept = [int(t) for window in windows for t in window.kept_positions]
    lost = [] if warmup is not None or n_head else [w for w in range(n_tokens) if w not in kept]
    assert sorted(kept + lost) == list(range(n_head, n_tokens)) and kept == sorted(kept)
    for window in windows:
        assert window.document == 5 and len(window) <= context
        assert window.ids.tolist() == (window.positions + 7).tolist()
        assert window.positions[:n_head].tolist() == list(range(n_head)) and not window.kept[:n_head].any()
        assert window.kept_positions.tolist() == [int(i) - 7 for i in window.ids[window.places]]
        if warmup is not None and window.number:
            assert window.places[0] - n_head >= min(warmup, window.kept_positions[0] - n_head)
    if warmup is None:  # windows without a warm-up do not overlap
        read = [int(p) for window in windows for p in window.positions[n_head:]]
        assert len(read) == len(set(read))
    assert all(len(window) > 1 for window in windows) or warmup is not None


def test_every_window_begins_with_bos(tokenizer):
    windows, documents = text_windows(TEXTS, tokenizer, 32)
    assert [w.document for w in windows] == sorted(w.document for w in windows)
    assert len(documents) == 3 and max(w.number for w in windows) > 1
    assert {int(window.ids[0]) for window in windows} == {256}
    assert not any(window.kept[0] for window in windows)
    assert sum(window.n_scored for window in windows) == sum(len(d) - 1 for d in documents)
    bare, documents = text_windows(TEXTS, tokenizer, 32, bos=False)
    assert not any((window.ids == 256).any() for window in bare)
    assert sum(window.n_scored for window in bare) == sum(len(d) for d in documents) - len(bare)


def test_budgets_count_what_is_read(tokenizer):
    windows, _ = text_windows(TEXTS * 9, tokenizer, 32, max_tokens=100)
    assert sum(map(len, windows)) == 100
    every, documents = text_windows(TEXTS, tokenizer, 32, per_document=12)
    assert [len(d) for d in documents] == [min(12, len(d)) for d in encode(TEXTS, tokenizer)]
    again, none = text_windows(every, tokenizer, 32, max_tokens=20)
    assert [len(w) for w in again] == [12, 8] and none == []
    assert (
        text_windows(TEXTS[:1], tokenizer, 32, max_tokens=10**9)[0][0].ids.tolist()
        == text_windows(TEXTS[:1], tokenizer, 32)[0][0].ids.tolist()
    )


def test_documents_beyond_the_budget_are_not_tokenised(tokenizer):
    _, documents = text_windows(["so it is and so it was"] * 1000, tokenizer, 32, max_tokens=64)
    assert len(documents) < 10


def test_wrong_numbers_are_refused(tokenizer):
    for wrong in ({"context": 1}, {"context": 2.5}, {"max_tokens": 1}, {"max_tokens": True}):
        with pytest.raises(ParameterError, match="whole number"):
            text_windows(TEXTS, tokenizer, **wrong)
    with pytest.raises(CorpusError, match="has 1 token"):
        text_windows(["x"], tokenizer)


# ---------------------------------------------------------------- batches

lists_of_ids = st.lists(st.lists(st.integers(0, 299), min_size=1, max_size=20), max_size=15)


@given(lists_of_ids, st.none() | st.integers(1, 6), st.none() | st.integers(1, 60), st.integers(0, 299))
@settings(max_examples=150, deadline=None)
def test_batches_hold_each_window_once(ids, max_rows, max_tokens, pad_id):
    windows = [Window(row, np.ones(len(row))) for row in ids]
    found = {}
    longest_so_far = 99
    for batch in batches(windows, max_rows=max_rows, max_tokens=max_tokens, pad_id=pad_id):
        rows, longest = batch.ids.shape
        assert rows == len(batch) == len(batch.indices) <= (max_rows or 99)
        assert max_tokens is None or rows * longest <= max_tokens or rows == 1
        assert longest == max(len(w) for w in batch.windows) <= longest_so_far
        longest_so_far = longest
        assert batch.n_tokens == int(batch.mask.sum())
        assert (batch.attention_mask is None) == bool(batch.mask.all())
        assert (batch.ids[~batch.mask] == pad_id).all()
        assert (batch.rows("kept") == batch.mask).all()
        assert int(batch.rows("scored").sum()) == sum(w.n_scored for w in batch.windows)
        for i, row, mask in zip(batch.indices, batch.ids, batch.mask):
            found[int(i)] = row[mask].tolist()
    assert [found[i] for i in range(len(ids))] == ids


def test_padding_is_on_the_right():
    batch = pad([Window([1, 2, 3], [1, 1, 1]), Window([4], [1])])
    assert batch.ids.tolist() == [[1, 2, 3], [4, 0, 0]]
    assert batch.inputs()["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert set(pad([Window([1, 2], [0, 1])]).inputs()) == {"input_ids"}


def test_wrong_limits_are_refused():
    for wrong in ({"max_rows": 0}, {"max_tokens": 1.5}, {"max_rows": True}):
        with pytest.raises(ParameterError, match="whole number"):
            group_windows([], **wrong)


def test_a_group_ends_where_padding_would_be_read_for_nothing():
    lengths = [512, 137, 375, 20, 500]
    windows = [np.zeros(n) for n in lengths]
    assert [g.tolist() for g in group_windows(windows, max_tokens=4096)] == [[0, 4, 2], [1, 3]]
    short = [np.zeros(n) for n in (40, 5, 5, 5, 5)]  # little padding, however large its share
    assert [g.tolist() for g in group_windows(short)] == [[0, 1, 2, 3, 4]]
    mixed = [np.zeros(n) for n in np.random.default_rng(0).integers(1, 900, 200)]
    groups = group_windows(mixed, max_tokens=8192)
    assert sorted(i for g in groups for i in g) == list(range(200))
    for g in groups:
        sizes = np.array([len(mixed[i]) for i in g])
        assert sizes.max() * len(g) - sizes.sum() <= max(256, 0.2 * sizes.max() * len(g))


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "bloom"])
def test_a_padded_batch_gives_what_each_window_gives_alone(name, tokenizer):
    import torch

    model = tiny_model(name)
    batch = pad(
        text_windows(["A short one.", "A text that is somewhat longer.", "Two"], tokenizer)[0], padding_id(tokenizer)
    )
    with torch.no_grad():
        together = model(**batch.inputs()).logits
        for window, logits in zip(batch.windows, together):
            alone = model(torch.from_numpy(window.ids)[None]).logits[0]
            torch.testing.assert_close(logits[: len(window)], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pad_token", ["<pad>", "</s>", None])
def test_padding_id(pad_token):
    assert padding_id(tiny_tokenizer(pad_token=pad_token)) == (258 if pad_token == "<pad>" else 257)
    assert padding_id(types.SimpleNamespace(pad_token_id=None, eos_token_id=None)) == 0

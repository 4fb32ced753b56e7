"""Losses, perplexity, minimal pairs, multiple choice, generated text."""

import json

import numpy as np
import pytest
import torch
from tiny import ARCHITECTURES, tiny_model, tiny_tokenizer

from llmbrain.evaluation import (
    ScoredSequence,
    load_questions,
    minimal_pairs,
    multiple_choice,
    parse_answer,
    perplexity,
    perplexity_report,
    score_answers,
    sequence_losses,
    token_losses,
)
from llmbrain.evaluation.losses import LogitReader, hidden_losses, pad
from llmbrain.evaluation.reader import _full
from llmbrain.exceptions import CorpusError, ParameterError
from llmbrain.text import MinimalPair, encode

TEXTS = ["the cat sat on the mat and then it rained.", "short one here", "a much longer text " * 5]


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def llama():
    return tiny_model("llama")


def plain_losses(model, ids):
    """Losses of one window by the textbook: whole logits, one sequence at a time."""
    ids = torch.as_tensor(np.asarray(ids))[None]
    with torch.no_grad():
        logits = model(ids).logits
    return torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:], reduction="none").numpy()


# ------------------------------------------------------------------------------------------------ token losses
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_batched_losses_equal_whole_logits_one_by_one(name, tokenizer):
    model = tiny_model(name)
    got = token_losses(model, tokenizer, TEXTS, context=40)
    for losses, document in zip(got, encode(TEXTS, tokenizer)):
        windows = [document.ids[i : i + 40] for i in range(0, len(document), 40)]
        expected = np.concatenate([plain_losses(model, w) for w in windows if len(w) > 1])
        np.testing.assert_allclose(losses, expected, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gemma2", "cohere", "granite", "opt"])
def test_head_is_applied_piece_by_piece_and_gives_the_model_s_logits(name):
    model, ids = tiny_model(name), torch.arange(24).reshape(2, 12)
    reader = LogitReader(model)
    with torch.no_grad():
        for _ in range(2):  # the first pass checks the head, later ones skip the logits altogether
            hidden = reader.read(ids)
            torch.testing.assert_close(reader.score(hidden), model(ids).logits, atol=1e-5, rtol=1e-5)
    assert hidden.shape == (2, 12, 32)
    assert reader._finish is not _full


def test_an_unknown_rescaling_of_the_logits_falls_back_to_full_logits(llama):
    class Strange(torch.nn.Module):
        def __init__(self, head):
            super().__init__()
            self.head, self.seen = head, 0

        def forward(self, x):  # depends on the length, so no rule of ours can know it
            return self.head(x) * (1.0 + x.shape[1] if x.ndim == 3 else 1.0)

    model, ids = tiny_model("llama"), torch.arange(24).reshape(2, 12)
    model.lm_head = Strange(model.lm_head)
    reader = LogitReader(model)
    with torch.no_grad():
        torch.testing.assert_close(reader.score(reader.read(ids)), model(ids).logits)
        torch.testing.assert_close(reader.score(reader.read(ids)), model(ids).logits)
    assert reader._finish is _full


def test_only_counted_tokens_are_scored(llama):
    ids = np.arange(10, 20)
    counted = np.zeros(10, bool)
    counted[[0, 4, 9]] = True  # the first token has no loss and is dropped
    (losses,) = sequence_losses(llama, [ScoredSequence(ids, counted)])
    np.testing.assert_allclose(losses, plain_losses(llama, ids)[[3, 8]], atol=1e-5)


def test_chunks_of_the_vocabulary_do_not_change_the_losses(llama, monkeypatch):
    ids = torch.arange(100)[None]
    with torch.no_grad():
        hidden = llama.base_model(ids).last_hidden_state[0, :-1]
        whole = hidden_losses(hidden, llama.lm_head, ids[0, 1:])
        monkeypatch.setitem(__import__("llmbrain.evaluation.losses", fromlist=["x"]).LOGITS_AT_ONCE, "cpu", 7 * 300)
        pieces = hidden_losses(hidden, llama.lm_head, ids[0, 1:])
    torch.testing.assert_close(whole, pieces, atol=1e-6, rtol=0)


def test_half_precision_models_are_scored_in_float32(tokenizer):
    model = tiny_model("llama").to(torch.bfloat16)
    losses = np.concatenate(token_losses(model, tokenizer, TEXTS))
    exact = np.concatenate(token_losses(tiny_model("llama"), tokenizer, TEXTS))
    assert losses.dtype == np.float32
    assert abs(losses.mean() - exact.mean()) < 0.05


def test_special_tokens_are_read_but_not_scored(llama, tokenizer):
    document = encode(["a text </s> and another"], tokenizer)[0]
    (losses,) = token_losses(llama, tokenizer, ["a text </s> and another"])
    assert document.is_special.sum() == 2
    assert len(losses) == len(document) - 2


def test_progress_counts_all_tokens(llama, tokenizer):
    done = []
    sequences = [ScoredSequence(np.arange(5, 5 + n), np.ones(n, bool)) for n in (9, 4, 6)]
    sequence_losses(llama, sequences, max_batch_tokens=9, progress=done.append)
    assert sum(done) == 19
    assert len(done) > 1


def test_bad_windows_are_refused(llama, tokenizer):
    with pytest.raises(ParameterError, match="context=1"):
        token_losses(llama, tokenizer, TEXTS, context=1)
    with pytest.raises(ParameterError, match="context=128"):
        token_losses(llama, tokenizer, ["x " * 400], context=400)


# ------------------------------------------------------------------------------------------------ perplexity
def test_perplexity_is_exp_of_the_mean_over_all_windows(llama, tokenizer):
    text = "Some words, one after the other. " * 12
    ids = tokenizer(text)["input_ids"]
    windows = [ids[i : i + 50] for i in range(0, len(ids), 50)]
    expected = np.exp(np.concatenate([plain_losses(llama, w) for w in windows if len(w) > 1]).mean())
    assert perplexity(llama, tokenizer, text, context=50) == pytest.approx(expected, rel=1e-5)


def test_perplexity_report_states_its_protocol(llama, tokenizer):
    report = perplexity_report(llama, tokenizer, "Some words. " * 30, context=64, max_tokens=100)
    assert (report["n_windows"], report["n_tokens"], report["context"], report["bos"]) == (2, 98, 64, True)
    assert report["perplexity"] == pytest.approx(np.exp(report["nats_per_token"]))
    without = perplexity_report(llama, tiny_tokenizer(add_bos=False), "Some words. " * 30, context=64)
    assert without["bos"] is False


def test_perplexity_pools_tokens_of_several_texts(llama, tokenizer):
    pooled = np.concatenate([plain_losses(llama, tokenizer(t)["input_ids"]) for t in TEXTS])
    assert perplexity(llama, tokenizer, TEXTS, context=128) == pytest.approx(np.exp(pooled.mean()), rel=1e-5)


@pytest.mark.parametrize("text", ["", [], "<s>", 3])
def test_perplexity_of_nothing_is_an_error(llama, text):
    with pytest.raises((CorpusError, TypeError)):
        perplexity(llama, tiny_tokenizer(add_bos=False), text)


# ------------------------------------------------------------------------------------------------ minimal pairs
def test_minimal_pairs_compare_whole_sentence_likelihoods(llama, tokenizer):
    pairs = [MinimalPair("the dogs run", "the dogs runs", "agree", "0"), MinimalPair("a b", "a c", "other", "1")]
    frame = minimal_pairs(llama, tokenizer, pairs)
    for row, pair in zip(frame.itertuples(), pairs):
        good = -plain_losses(llama, tokenizer(pair.good)["input_ids"]).sum()
        bad = -plain_losses(llama, tokenizer(pair.bad)["input_ids"]).sum()
        assert (row.good, row.bad) == (pytest.approx(good, abs=1e-4), pytest.approx(bad, abs=1e-4))
        assert row.correct == float(good > bad)


def test_minimal_pairs_of_the_package_load_and_limit(llama, tokenizer):
    frame = minimal_pairs(llama, tokenizer, n_pairs=2)
    assert frame.groupby("uid").size().eq(2).all()
    with pytest.raises(ParameterError, match="empty"):
        minimal_pairs(llama, tokenizer, [])


# ------------------------------------------------------------------------------------------------ multiple choice
QUESTIONS = [
    {"prompt": "The sky is", "options": ["blue", "an apple", "7"], "answer": 0, "kind": "colour"},
    {"prompt": "Two and two make ", "options": ["four", "five"], "answer": "four"},
]


def test_multiple_choice_scores_the_option_given_the_prompt(llama, tokenizer):
    frame = multiple_choice(llama, tokenizer, QUESTIONS)
    ids = tokenizer("The sky is an apple")["input_ids"]
    n_prompt = len(tokenizer("The sky is")["input_ids"])
    option = -plain_losses(llama, ids)[n_prompt - 1 :].sum()
    blue = -plain_losses(llama, tokenizer("The sky is blue")["input_ids"])[n_prompt - 1 :].sum()
    seven = -plain_losses(llama, tokenizer("The sky is 7")["input_ids"])[n_prompt - 1 :].sum()
    assert frame.margin[0] == pytest.approx(blue - max(option, seven), abs=1e-4)
    assert frame.chosen[0] == int(np.argmax([blue, option, seven]))
    assert frame.chance.tolist() == [pytest.approx(1 / 3), 0.5]


def test_normalisation_divides_by_length(llama, tokenizer):
    by_token = multiple_choice(llama, tokenizer, QUESTIONS, normalise="token")
    plain = multiple_choice(llama, tokenizer, QUESTIONS)
    assert not np.allclose(by_token.margin, plain.margin)
    with pytest.raises(ParameterError, match="normalise"):
        multiple_choice(llama, tokenizer, QUESTIONS, normalise="byte")


def test_questions_are_read_from_jsonl_and_checked(tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(json.dumps(q) for q in QUESTIONS))
    assert [q.answer for q in load_questions(path)] == [0, 0]
    for bad, message in [
        ({"prompt": "x", "options": ["a"], "answer": 0}, "two different options"),
        ({"prompt": "x", "options": ["a", "b"], "answer": 2}, "number of an option"),
        ({"prompt": "x", "options": ["a", "b"], "answer": "c"}, "not among"),
        ({"prompt": "x", "options": ["a", "b"]}, "lacks answer"),
    ]:
        with pytest.raises(CorpusError, match=message):
            load_questions([bad])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("This sentence is unacceptable.", "unacceptable"),
        ("ACCEPTABLE", "acceptable"),
        ("acceptable or unacceptable, who knows", None),
        ("it is unacceptably long", None),
        ("", None),
    ],
)
def test_answers_are_parsed_longest_label_first(text, expected):
    assert parse_answer(text, ["acceptable", "unacceptable"]) == expected


def test_a_label_that_holds_another_is_never_read_as_the_other():
    labels = ["entailment", "not entailment", "neutral"]
    assert parse_answer("Answer: not  entailment", labels) == "not entailment"
    assert parse_answer("entailment", labels) == "entailment"


def test_unparsed_answers_count_neither_as_right_nor_as_wrong():
    scored = score_answers(["yes", "no", "hm", "yes or no"], ["yes", "yes", "no", "no"], ["yes", "no"])
    assert scored["accuracy"] == 0.5
    assert scored["parse_rate"] == 0.5
    assert scored["majority"] == 0.5
    assert scored["parsed"] == ["yes", "no", None, None]
    nothing = score_answers(["hm"], ["no"], ["yes", "no"])
    assert np.isnan(nothing["accuracy"])
    assert nothing["n_parsed"] == 0
    with pytest.raises(ParameterError, match="maybe"):
        score_answers(["yes"], ["maybe"], ["yes", "no"])


def test_padding_is_on_the_right():
    ids, mask = pad([ScoredSequence([1, 2, 3], [1, 1, 1]), ScoredSequence([4], [1])], "cpu")
    assert ids.tolist() == [[1, 2, 3], [4, 0, 0]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]

"""Multiple choice by likelihood, and answers read from generated text."""

import json

import numpy as np
import pytest
from plain import plain_losses

from llmbrain.evaluation import load_questions, multiple_choice, parse_answer
from llmbrain.exceptions import CorpusError, ParameterError

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
    assert [q.answer for q in load_questions(path)] == [q.answer for q in load_questions(str(path))] == [0, 0]
    for bad, message in [
        ({"prompt": "x", "options": ["a"], "answer": 0}, "two different options"),
        ({"prompt": "x", "options": ["a", "b"], "answer": 2}, "number of an option"),
        ({"prompt": "x", "options": ["a", "b"], "answer": "c"}, "not among"),
        ({"prompt": "x", "options": ["a", "b"]}, "lacks answer"),
        ({"prompt": 5, "options": ["a", "b"], "answer": 0}, "must be a text"),
        ({"prompt": "x", "options": "ab", "answer": 0}, "options a list"),
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

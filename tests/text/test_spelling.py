"""Spellings of tokens: readable, on one line, and made when they are read."""

import re

import numpy as np
import pytest
from tiny import tiny_tokenizer

from llmbrain.text import encode
from llmbrain.text.spelling import Speller, Spellings, spelled


def test_split_characters_are_spelled_as_bytes():
    tokenizer = tiny_tokenizer()
    assert Speller(tokenizer)(tokenizer("é", add_special_tokens=False)["input_ids"]) == ["\\xc3", "\\xa9"]


def test_spellings_are_made_when_they_are_read():
    made = []
    spellings = Spellings(lambda ids: made.append(list(ids)) or [f"<{i}>" for i in ids], np.array([4, 7, 9]))
    assert len(spellings) == 3 and not made
    assert spellings[1] == "<7>" and made == [[7]]
    assert spellings[1:] == ["<7>", "<9>"] and spellings[-1] == "<9>" and spelled(spellings, [2, 0]) == ["<9>", "<4>"]
    assert spellings == ["<4>", "<7>", "<9>"] and spelled(["a", "b"], [1]) == ["b"]


@pytest.mark.demo
def test_real_tokens_are_spelled_as_the_characters_they_stand_for(demo_model):
    text = "naïve café, größer; 日本 🙂 – ok"
    tokens = encode([text], demo_model[1], bos=False)[0].tokens
    assert "Ġ" not in "".join(tokens) and "Ã" not in "".join(tokens)
    assert bytes_of(tokens) == text.encode()


def bytes_of(tokens):
    """The bytes that spellings stand for."""
    found = b""
    for part in re.split(r"(\\x[0-9a-f]{2})", "".join(tokens)):
        found += bytes([int(part[2:], 16)]) if re.fullmatch(r"\\x[0-9a-f]{2}", part) else part.encode()
    return found

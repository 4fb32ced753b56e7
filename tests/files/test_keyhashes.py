"""Hashes of the keys of a JSON file."""

import numpy as np
import pytest

from llmbrain.files import KEY_HASHES, changed_key, read_json, with_hashes, write_json

CONTENT = {
    "text": "a\ud83db/\u2028", "number": 0.1 + 0.2, "numpy": np.float32(0.1), "none": None, "nan": float("nan"),
    "list": [1, (2, 3)], "numbers as keys": {1: "a", 2: {"b": np.arange(3)}},
}  # fmt: skip


def test_nothing_has_changed_in_what_was_written(tmp_path):
    content = read_json(write_json(tmp_path / "a.json", with_hashes(CONTENT)))
    assert changed_key(content) == "" and changed_key({**content, "mine": 5}) == ""
    assert changed_key(dict(reversed(content.items()))) == ""
    assert with_hashes(content) == with_hashes(CONTENT)


@pytest.mark.parametrize("key", CONTENT)
def test_a_changed_or_missing_value_is_named(tmp_path, key):
    content = read_json(write_json(tmp_path / "a.json", with_hashes(CONTENT)))
    assert changed_key({**content, key: [content[key]]}) == key
    assert changed_key({k: v for k, v in content.items() if k != key}) == key


@pytest.mark.parametrize("value", [None, {}, [], "x", 5])
def test_the_hashes_must_be_there(value):
    assert changed_key({**with_hashes({"a": 1}), KEY_HASHES: value}) == KEY_HASHES

"""The limits of every station are checked before the first one starts."""

from dataclasses import replace

import pytest
from tiny import tiny_model, tiny_tokenizer

from llmbrain.exceptions import LLMBrainError, ParameterError
from llmbrain.models.speed import measure_machine
from llmbrain.pipeline import whole
from llmbrain.pipeline.limits import check_limits
from llmbrain.pipeline.pruning import pruning_context
from llmbrain.pruning.budget import measure_speed
from llmbrain.text import load_corpus

TEXTS = load_corpus([f"the cat of house {i} sat on the road to the island of that town " * 6 for i in range(8)])
PLAN = replace(whole.QUICK, record_tokens=300, tokens_per_run=100, n_components=3)


@pytest.fixture(scope="module")
def short():
    """A model with 24 positions: a 25th token is an error of the library."""
    return tiny_model("gpt2", n_positions=24), tiny_tokenizer()


def test_a_short_model_passes(short, tmp_path):
    check_limits(*short, TEXTS, TEXTS, tmp_path / "study", PLAN)
    assert not (tmp_path / "study").exists()
    assert pruning_context(short[0], 2048) == 24 and pruning_context(short[0], 2048, 16) == 16
    measure_machine(short[0])
    assert measure_speed(short[0])["prompt"] + 8 <= 24


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"context": 25}, "at most 24 tokens"),
        ({"n_components": 300}, "n_components=300"),
        ({"n_components": 192, "record_tokens": 400}, "of 192 neurons, which carry at most 191"),
        ({"threshold": 13.9}, "among 192 neurons no .z. exceeds 13.8"),
        ({"ratio": 0.999}, "ratio|floor|remove"),
    ],
)
def test_what_a_later_station_would_refuse_is_refused_first(change, words, short, tmp_path):
    with pytest.raises(LLMBrainError, match=words):
        check_limits(*short, TEXTS, TEXTS, tmp_path / "study", replace(PLAN, **change))


def test_a_run_checks_before_it_writes(short, tmp_path, monkeypatch):
    monkeypatch.setattr(whole, "measure_machine", lambda *_: pytest.fail("a station has started"))
    short[0].save_pretrained(tmp_path / "model")
    short[1].save_pretrained(tmp_path / "model")
    with pytest.raises(ParameterError, match="at most 24 tokens"):
        whole.run_study(str(tmp_path / "model"), TEXTS, tmp_path / "study", test_text=TEXTS, context=512, quick=True)
    assert not (tmp_path / "study").exists()

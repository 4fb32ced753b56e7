"""The table of tokens."""

import json

import numpy as np
import pytest
from recorded import TEXTS, alone, quiet
from tiny import tiny_tokenizer

from llmbrain.exceptions import (
    DatasetError,
    ParameterError,
)
from llmbrain.text import Corpus, Document, encode


def test_events_say_what_each_token_is(llama, tokenizer, tmp_path):
    corpus = Corpus([Document(TEXTS[0], "hero", "story"), Document(TEXTS[3], "add", "code")], name="my corpus")
    runs = quiet(llama, tokenizer, corpus, tmp_path / "study")
    events = runs.events
    assert len(events) == runs.n_tokens
    assert events["onset"].tolist() == list(range(len(events))) and set(events["duration"]) == {1}
    assert "".join(events.loc[events["document"] == "hero", "token"]) == TEXTS[0]
    assert set(events["kind"]) == {"story", "code"} and 256 not in set(events["token_id"])
    counts = events["token_id"].value_counts()
    np.testing.assert_allclose(events["log_frequency"], np.log(counts[events["token_id"]] / len(events)), atol=1e-5)
    assert not events["sink"].any() and events["surprisal"].notna().all()
    assert set(json.loads(runs.study.path("events_json").read_text())) >= set(events.columns) - {"run"}


def test_without_bos_the_first_token_is_marked_as_a_sink(llama, tmp_path):
    tokenizer = tiny_tokenizer(add_bos=False)
    tokenizer.bos_token = None
    runs = quiet(llama, tokenizer, TEXTS[:2], tmp_path / "study")
    first = runs.events["position"] == 0
    assert first.sum() == 2 and (runs.events["sink"] == first).all()
    assert (runs.events["surprisal"].isna() == first).all()
    confounds = runs.confounds()[0]
    assert np.isfinite(confounds.to_numpy()).all() and list(confounds) == [
        "position", "sink", "log_frequency", "surprisal"
    ]  # fmt: skip


def test_special_tokens_on_request(llama, tokenizer, tmp_path):
    """BOS at the head of every document, once, whatever the windows; all other tokens as without it."""
    plain = quiet(llama, tokenizer, TEXTS, tmp_path / "plain", context=32)
    runs = quiet(llama, tokenizer, TEXTS, tmp_path / "study", context=32, special_tokens=True)
    events = runs.events
    special = events["token_id"] == 256
    assert special.sum() == len(TEXTS) and (special == (events["position"] == 0)).all()
    assert (events["sink"] == special).all() and (events["log_frequency"].isna() == special).all()
    np.testing.assert_array_equal(runs[0].to_array()[~special], plain[0].to_array())
    values, _ = alone(llama, encode(TEXTS, tokenizer)[1].ids)
    first = events.index[events["document"] == "text-0002"][0]
    np.testing.assert_allclose(runs[0].to_array()[first], values[0], atol=1e-5)
    assert np.isfinite(runs.confounds()[0].to_numpy()).all() and runs[0].sidecar["SpecialTokens"] is True
    with pytest.raises(DatasetError, match="special_tokens=True there, False now"):
        quiet(llama, tokenizer, TEXTS, tmp_path / "study", context=32)


def test_confounds_go_into_nilearn(llama, tokenizer, tmp_path):
    runs = quiet(llama, tokenizer, TEXTS, tmp_path / "study", tokens_per_run=128)
    confounds = runs.confounds(["log_position", "surprisal"])
    assert [len(c) for c in confounds] == [run.n_tokens for run in runs]
    cleaned = runs.geometry.masker(standardize="zscore_sample").fit_transform(runs.paths[0], confounds=confounds[0])
    correlation = np.corrcoef(cleaned.T, confounds[0].T)[:-2, -2:]
    assert np.abs(correlation).max() < 1e-3
    with pytest.raises(ParameterError, match="nothing"):
        runs.confounds(["nothing"])

"""The size of a recording before it starts."""

import pytest
from recorded import TEXTS, quiet

from llmbrain.exceptions import (
    RecordingError,
)
from llmbrain.recording import forecast
from llmbrain.text import encode


def test_the_forecast_is_right(llama, tokenizer, tmp_path):
    said = forecast(llama, tokenizer, TEXTS, site=["mlp", "layer"])
    assert said.peak_memory == 4 * (192 + 128 + 300) * sum(len(d) for d in encode(TEXTS, tokenizer))
    recordings = quiet(llama, tokenizer, TEXTS, tmp_path / "study", site=["mlp", "layer"])
    size = sum(run.path.stat().st_size for runs in recordings.values() for run in runs)
    assert said.bytes == size and said.n_tokens == recordings["mlp"].n_tokens
    assert "192 neurons (mlp), 128 neurons (layer)" in str(said) and said.n_runs == 1


def test_a_full_disk_is_noticed_before_it_starts(llama, tokenizer, tmp_path, monkeypatch):
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(RecordingError, match=r"needs .* KiB, .* 1000 B left.*int16"):
        quiet(llama, tokenizer, TEXTS, tmp_path / "study")
    assert not (tmp_path / "study").exists()

"""Shares of a recording, as jobs of an array make them, and what the merge says."""

import pytest
from recorded import HERON, files_of, quiet

from llmbrain.exceptions import DatasetError, ParameterError
from llmbrain.recording import check_shares, forecast


def test_shares_make_the_files_of_one_process(llama, tokenizer, tmp_path):
    texts, options = [HERON, HERON * 2, HERON, HERON * 3], {"tokens_per_run": 90}
    whole = quiet(llama, tokenizer, texts, tmp_path / "whole", **options)
    assert check_shares(whole.study) is None
    parts = [quiet(llama, tokenizer, texts, tmp_path / "shares", share=f"{k}/3", **options) for k in (3, 1)]
    study = parts[0].study
    with pytest.raises(DatasetError, match=r"lacks \d of \d+ runs .* belong to the shares 2/3\."):
        check_shares(study)
    parts.append(quiet(llama, tokenizer, texts, tmp_path / "shares", share="2/3", **options))
    assert sum(map(len, parts)) == len(whole) == check_shares(study)
    tokens = [part.n_tokens for part in parts]
    assert max(tokens) - min(tokens) <= 90
    assert files_of(tmp_path / "shares") == files_of(tmp_path / "whole")
    with pytest.raises(ParameterError, match=f"99 shares were started for {len(whole)} runs"):
        quiet(llama, tokenizer, texts, tmp_path / "shares", share="1/99", **options)


@pytest.mark.parametrize("note", ["[]", "{}", '{"runs": {"x": 1}, "sites": ["mlp"], "count": 2}', "not JSON"])
def test_a_damaged_note_is_one_sentence(note, llama, tokenizer, tmp_path):
    study = quiet(llama, tokenizer, [HERON] * 2, tmp_path / "study", tokens_per_run=30, share="1/2").study
    study.path("recording_shares").write_text(note)
    with pytest.raises(DatasetError, match="shares.part.json"):
        check_shares(study)


def test_a_damaged_run_of_a_share_is_noticed(llama, tokenizer, tmp_path):
    for share in ("1/2", "2/2"):
        study = quiet(llama, tokenizer, [HERON] * 2, tmp_path / "study", tokens_per_run=30, share=share).study
    with open(study.run_paths()[1], "r+b") as file:
        file.seek(-4000, 2)
        file.write(bytes(4000))
    with pytest.raises(DatasetError, match="run-02.*is damaged"):
        check_shares(study)


def test_a_forecast_names_the_time_of_the_busiest_process(llama, tokenizer):
    one, two = (forecast(llama, tokenizer, [HERON] * 4, tokens_per_run=90, processes=n) for n in (1, 2))
    assert one.n_fed_each == one.n_fed and one.n_fed / 2 <= two.n_fed_each < one.n_fed
    assert one.seconds > 0 and "With 2 processes: at most" in str(two)
    with pytest.raises(ParameterError, match="processes=50: this recording has"):
        forecast(llama, tokenizer, [HERON] * 4, tokens_per_run=90, processes=50)

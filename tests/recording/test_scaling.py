"""Storage as int16."""

from pathlib import Path

import numpy as np
import pytest
from recorded import TEXTS, quiet

from llmbrain import NeuronGeometry
from llmbrain.dataset import open_recording
from llmbrain.exceptions import (
    DatasetError,
    NumericalWarning,
)
from llmbrain.files import save_img


def test_int16_keeps_each_neuron_to_a_fraction_of_its_range(llama, tokenizer, tmp_path):
    full = quiet(llama, tokenizer, TEXTS, tmp_path / "full")[0].to_array()
    runs = quiet(llama, tokenizer, TEXTS, tmp_path / "half", storage="int16")
    assert runs[0].raw().dtype == np.int16
    np.testing.assert_array_equal(runs[0].geometry.to_array(runs[0].img()), runs[0].to_array())
    step = runs[0].scale
    assert (step >= np.abs(full).max(0) / 4096 - 1e-9).all()
    assert (np.abs(runs[0].to_array() - full) <= 0.51 * step + 1e-7).all()
    float_file, int_file = (Path(r[0].path).stat().st_size - 352 for r in (open_recording(tmp_path / "full"), runs))
    assert float_file == 2 * int_file


@pytest.mark.parametrize("engine", ["torch", "nilearn"])
def test_int16_is_decomposed_in_units_of_activation_however_it_is_given(llama, tokenizer, tmp_path, engine):
    from llmbrain import CanICA

    runs = quiet(llama, tokenizer, TEXTS, tmp_path / "half", storage="int16")
    options = {"geometry": runs[0].geometry, "engine": engine, "standardize": False, "n_init": 1}
    wanted = CanICA(2, **options).fit([run.to_array() for run in runs]).components_
    for given in (runs, [run.path for run in runs]):
        found = CanICA(2, **options).fit(given).components_
        assert min(np.abs(np.corrcoef(found, wanted)[:2, 2:]).max(1)) > 0.999


def test_int16_says_what_it_cut(llama, tokenizer, tmp_path):
    options = {"storage": "int16", "tokens_per_run": 60}
    first = quiet(llama, tokenizer, TEXTS, tmp_path / "study", run_index=1, **options)
    assert first[0].sidecar["ClippedValues"] == 0
    path = first.study.path("scale")
    save_img(path, first.geometry.to_img(first[0].scale / 1000))  # as if the first texts had been far quieter
    with pytest.warns(NumericalWarning, match="too large for int16"):
        second = quiet(llama, tokenizer, TEXTS, tmp_path / "study", run_index=2, **options)
    assert second[0].sidecar["ClippedValues"] == (np.abs(second[0].raw()) == 32767).sum() > 0


def test_int16_without_its_factors_is_refused(llama, tokenizer, tmp_path):
    runs = quiet(llama, tokenizer, TEXTS, tmp_path / "study", storage="int16")
    path = runs.study.path("scale")
    whole = path.read_bytes()
    for damage, message in (
        (lambda: path.unlink(), "scale.nii.gz is missing: it holds the factor"),
        (lambda: path.write_bytes(whole[: len(whole) // 2]), "has changed since"),
        (lambda: path.write_bytes(b"nothing"), "has changed since"),
        (lambda: save_img(path, NeuronGeometry.from_sizes([48] * 2).to_img(np.ones(96))), "has changed since"),
    ):
        damage()
        with pytest.raises(DatasetError, match=message):
            open_recording(tmp_path / "study")
    path.write_bytes(whole)
    assert open_recording(tmp_path / "study").n_tokens == runs.n_tokens

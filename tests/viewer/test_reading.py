"""New texts are measured as the recording was: courses and surprisal agree with what the package writes."""

import numpy as np
import pytest
from recorded import HERON as TEXT

import llmbrain as lb
from llmbrain.exceptions import CorpusError, ParameterError
from llmbrain.models import find_sites
from llmbrain.networks import NetworkSet
from llmbrain.viewer.contents import packed
from llmbrain.viewer.reading import course_weights, measure_yardstick, read_text, window_of


def test_reading_the_recorded_text_gives_the_recorded_courses(made, tiny):
    """With one run, the yardstick is what the decomposition used, so the courses must be those of transform."""
    folder, canica = made
    recording = lb.open_recording(folder)
    yardstick = measure_yardstick(recording, NetworkSet.load(folder))
    window, tokens, cut = window_of(TEXT * 3, tiny[1], max_tokens=2000)
    reading = read_text(tiny[0], find_sites(tiny[0], "mlp"), window, tokens, cut)
    stored = canica.transform(recording)[0]
    expected = (stored - stored.mean(0)) / stored.std(0)
    np.testing.assert_allclose(yardstick.courses(yardstick.z(reading.activity)), expected, atol=2e-3)
    np.testing.assert_allclose(reading.surprisal, recording.events["surprisal"], atol=1e-4)
    assert reading.tokens == recording.events["token"].tolist() and not cut


def test_z_is_that_of_the_recording_and_constant_neurons_get_zero(made):
    recording = lb.open_recording(made[0])
    x = recording[0].to_array()
    yardstick = measure_yardstick(recording)
    np.testing.assert_allclose(yardstick.z(x), (x - x.mean(0)) / x.std(0), atol=1e-3)
    yardstick.sd[3] = 0
    assert (yardstick.z(x)[:, 3] == 0).all()


def test_a_large_recording_is_sampled_over_its_length(made):
    recording = lb.open_recording(made[0])
    n = recording.geometry.n_neurons
    some = measure_yardstick(recording, max_values=150 * n)
    assert 100 <= some.n_tokens <= 200 < recording.n_tokens
    whole = measure_yardstick(recording)
    assert np.corrcoef(some.mean, whole.mean)[0, 1] > 0.9


def test_networks_of_different_layers_share_no_regression(made):
    """Each layer's maps are regressed on their own, as the estimator does."""
    recording = lb.open_recording(made[0])
    layered = lb.CanICA(n_components=2, n_init=1, scope="layer", random_state=0).fit(recording)
    yardstick = measure_yardstick(recording, layered.networks_)
    z = yardstick.z(recording[0].to_array())
    np.testing.assert_allclose(z @ course_weights(layered.networks_), layered.transform(recording)[0], atol=2e-2)


@pytest.mark.parametrize("bos", [True, False])
def test_long_texts_are_cut_and_say_so(tiny, bos):
    window, tokens, cut = window_of(TEXT, tiny[1], bos=bos, max_tokens=20)
    assert len(tokens) == 20 == window.kept.sum() and cut
    assert len(window) == 20 + bos
    assert not window_of("A short one.", tiny[1], bos=bos, max_tokens=20)[2]


def test_what_cannot_be_read_is_refused(tiny):
    with pytest.raises(CorpusError, match="empty"):
        window_of("  \n", tiny[1])
    with pytest.raises(ParameterError, match="string"):
        window_of(3, tiny[1])
    with pytest.raises(CorpusError, match="at least 2"):
        window_of("a", tiny[1])


def test_packed_z_scores_exceed_the_same_thresholds():
    z = np.random.default_rng(0).normal(0, 2, 20000).astype(np.float32)
    steps = np.frombuffer(packed(z), "<i2")
    for threshold in (100, 275, 300):
        assert np.array_equal(np.abs(steps) > threshold, np.abs(z) * np.float32(100) > threshold)
    assert np.abs(steps / 100 - z).max() <= 0.0101

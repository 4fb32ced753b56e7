"""A tiny study with networks, made once: one run of one text, so that every statistic can be computed by hand."""

import pytest
from recorded import HERON
from tiny import tiny_model, tiny_tokenizer

import llmbrain as lb


@pytest.fixture(scope="session")
def tiny():
    """A tiny model and its tokenizer."""
    return tiny_model("llama", max_position_embeddings=2048), tiny_tokenizer()


@pytest.fixture(scope="session")
def made(tiny, tmp_path_factory):
    """A study folder with one run and three networks, and the fitted estimator; tests must not change the folder."""
    folder = tmp_path_factory.mktemp("viewer") / "study"
    recording = lb.record(*tiny, [HERON * 3], out=folder, context=512, progress=False)
    canica = lb.CanICA(n_components=3, n_init=2, random_state=0).fit(recording)
    canica.networks_.save(recording.study)
    return folder, canica


@pytest.fixture
def study(made, tmp_path):
    """A copy of the study folder that a test may change."""
    import shutil

    return shutil.copytree(made[0], tmp_path / "study")

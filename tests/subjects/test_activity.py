"""Activity in memory is that of a plain forward pass, token by token, also over several windows."""

import numpy as np
import pytest
import torch
from recorded import alone
from tiny import ARCHITECTURES, tiny_model, tiny_tokenizer

from llmbrain.exceptions import NumericalError, ParameterError
from llmbrain.subjects.activity import read_activity
from llmbrain.text import encode

TEXTS = ["The other hero entered the house.", "On the third morning the old heron stood in the river."]


def test_values_and_places_are_those_of_a_plain_pass():
    model, tokenizer = tiny_model(), tiny_tokenizer()
    activity, geometries = read_activity(model, tokenizer, TEXTS, ["mlp", "layer"])
    for text, found, document in zip(TEXTS, activity, encode(TEXTS, tokenizer)):
        assert "".join(text[a:b] for a, b in found.spans) == text
        for site in ("mlp", "layer"):
            expected, nats = alone(model, document.ids, site)
            assert np.allclose(found.values[site], expected[1:], atol=1e-5)  # without BOS
            assert found.values[site].shape[1] == geometries[site].n_neurons
        assert np.allclose(found.surprisal, nats[1:], atol=1e-5)


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_activity_is_the_same_without_surprisals(architecture):
    model, tokenizer = tiny_model(architecture), tiny_tokenizer()
    sizes = []
    model.get_output_embeddings().register_forward_hook(lambda module, args, output: sizes.append(args[0].shape[:-1]))
    with_them, _ = read_activity(model, tokenizer, TEXTS, ["mlp", "layer"])
    n_tokens = sizes.pop().numel()
    without, _ = read_activity(model, tokenizer, TEXTS, ["mlp", "layer"], surprisals=False)
    assert len(sizes) == 1 and sizes[0].numel() <= n_tokens / 2  # a part of one text, to check it
    for a, b in zip(with_them, without):
        assert b.surprisal is None and np.array_equal(a.spans, b.spans)
        assert all(np.array_equal(a.values[site], b.values[site]) for site in a.values)


def test_long_texts_are_read_in_windows_and_a_first_token_without_bos_is_left_out():
    tokenizer = tiny_tokenizer(add_bos=False)
    tokenizer.bos_token = None
    text = "The heron stood in the river, and nobody saw it. " * 6
    (found,), _ = read_activity(tiny_model(), tokenizer, [text], ["layer"])
    assert "".join(text[a:b] for a, b in found.spans) == text[found.spans[0, 0] :]
    assert 0 < found.spans[0, 0] <= 2 and len(found.spans) > 128 and np.isfinite(found.values["layer"]).all()


def test_broken_models_and_missing_tokenizers_are_refused():
    model = tiny_model()
    with pytest.raises(ParameterError, match="own tokenizer"):
        read_activity(model, None, TEXTS)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.fill_(3e38)
    for surprisals in (True, False):
        with pytest.raises(NumericalError, match="not finite"):
            read_activity(model, tiny_tokenizer(), TEXTS, surprisals=surprisals)

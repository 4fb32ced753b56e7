"""Logits in pieces: the head that is applied outside of the model gives the model's own logits."""

import pytest
import torch
from tiny import tiny_model

from llmbrain.evaluation.reader import LogitReader, _full


@pytest.mark.parametrize("name", ["llama", "gemma2", "cohere", "granite", "opt"])
def test_head_is_applied_piece_by_piece_and_gives_the_model_s_logits(name):
    model, ids = tiny_model(name), torch.arange(24).reshape(2, 12)
    reader = LogitReader(model)
    with torch.no_grad():
        for _ in range(2):  # the first pass checks the head, later ones skip the logits altogether
            hidden = reader.read(ids)
            torch.testing.assert_close(reader.score(hidden), model(ids).logits, atol=1e-5, rtol=1e-5)
    assert hidden.shape == (2, 12, 32)
    assert reader._finish is not _full


def test_an_unknown_rescaling_of_the_logits_falls_back_to_full_logits():
    class Strange(torch.nn.Module):
        def __init__(self, head):
            super().__init__()
            self.head, self.seen = head, 0

        def forward(self, x):  # depends on the length, so no rule of ours can know it
            return self.head(x) * (1.0 + x.shape[1] if x.ndim == 3 else 1.0)

    model, ids = tiny_model("llama"), torch.arange(24).reshape(2, 12)
    model.lm_head = Strange(model.lm_head)
    reader = LogitReader(model)
    with torch.no_grad():
        torch.testing.assert_close(reader.score(reader.read(ids)), model(ids).logits)
        torch.testing.assert_close(reader.score(reader.read(ids)), model(ids).logits)
    assert reader._finish is _full

"""Block-wise fits."""

import copy

import numpy as np
import pytest
import torch
from tiny import tiny_model

from llmbrain.exceptions import ParameterError
from llmbrain.models.surgery import prunable_mlps
from llmbrain.pruning import Options
from llmbrain.pruning.blockwise import ROWS, _scale, chunks_of, fit_blocks
from llmbrain.pruning.calibration import calibration_blocks, held_out_masks
from llmbrain.pruning.cut import cut
from llmbrain.pruning.walk import Walk


@pytest.fixture(scope="module")
def blocks(tokenizer, texts):
    return calibration_blocks(tokenizer, texts[:24], context=64, batch_size=4)


def error_after(model, dense, blocks, layer):
    """Mean squared error of the stream after a layer."""
    kinds = {}
    for name, m in (("cut", model), ("dense", dense)):
        walk = Walk(m, blocks)
        for i in range(layer + 1):
            walk.advance(i)
        kinds[name] = torch.cat([h[mask] for h, mask in zip(walk.hidden, walk.masks)])
    return float((kinds["cut"] - kinds["dense"]).square().mean())


@pytest.mark.parametrize(("name", "lookahead"), [("llama", 0), ("llama", 9), ("gpt2", 2), ("gemma2", 1)])
def test_a_fitted_block_brings_the_stream_closer_and_only_linears_move(name, lookahead, blocks):
    dense = tiny_model(name)
    kept = [np.arange(n) if i != 1 else np.arange(n // 2) for i, n in enumerate(p.size for p in prunable_mlps(dense))]
    found = {}
    for steps in (0, 60):
        model = copy.deepcopy(dense)
        options = Options(block_steps=steps, lookahead=lookahead)
        table = cut(model, blocks, kept, "none", options)
        found[steps] = error_after(model, dense, blocks, min(1 + lookahead, 3))
    assert found[60] < 0.9 * found[0]
    assert (
        np.isnan(table.reconstruction[0]) and (table.reconstruction[1:] <= 1).all() and table.reconstruction[1] < 0.95
    )
    moved = {k for k, v in model.named_parameters() if v.shape == dense.get_parameter(k).shape
             and not torch.equal(v, dense.get_parameter(k))}  # fmt: skip
    assert moved and not any("norm" in k or "ln_" in k or "embed" in k or "wte" in k for k in moved)
    assert not any(p.grad is not None for p in model.parameters())
    assert [p.requires_grad for p in model.parameters()] == [p.requires_grad for p in dense.parameters()]


def test_held_out_tokens_are_never_fitted_and_decide(blocks):
    """Where the fitted tokens ask for nonsense, the weights stay as they are."""
    model = tiny_model("llama")
    walk, before = Walk(model, blocks), copy.deepcopy(model.state_dict())
    held = held_out_masks(walk.masks, 0.25)
    wanted = [walk.run(0, i) for i in range(len(blocks))]
    noise = torch.Generator().manual_seed(0)
    wanted = [
        w + torch.randn(w.shape, generator=noise) * (1 - 0.999 * h[..., None].float()) for w, h in zip(wanted, held)
    ]
    weights = [m.float() for m in walk.masks]
    left = fit_blocks(walk, range(1), 0, wanted, weights, held, chunks_of(walk.masks, held), 20)
    assert left == 1.0 and all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_dimensions_of_the_stream_count_by_their_spread_over_the_tokens_that_are_fitted(blocks):
    walk = Walk(tiny_model("llama"), blocks)
    spread = torch.rand(walk.hidden[0].shape[-1]) + 0.5
    spread[3], spread[5] = 1000, 0
    wanted = [torch.randn(x.shape) * spread + 7 for x in walk.hidden]
    weights = [torch.rand(m.shape) * m for m in walk.masks]
    for x, w in zip(wanted, weights):
        x[w == 0] = 1e9
    scale = _scale(walk, wanted, weights)
    assert scale.square().mean() == pytest.approx(1, rel=1e-5)
    usual = [i for i in range(len(scale)) if i not in (3, 5)]
    torch.testing.assert_close(
        scale[usual] * spread[usual].sqrt(), (scale * spread.sqrt())[0].expand(len(usual)), rtol=0.4, atol=0
    )
    assert scale[3] < 0.1 * scale[usual].median() and scale[5] == pytest.approx(
        10 * float(scale[usual].median()), rel=0.2
    )


def test_steps_read_only_windows_with_fitted_tokens():
    masks = [torch.ones(5, 8, dtype=torch.bool), torch.ones(3, 8, dtype=torch.bool)]
    assert len(chunks_of(masks, [])) == 5 and all(rows.stop - rows.start == ROWS for _, rows in chunks_of(masks, []))
    held = [torch.zeros(5, 8, dtype=torch.bool), torch.ones(3, 8, dtype=torch.bool)]
    held[0][:2] = True
    assert chunks_of(masks, held) == [(0, slice(2, 4)), (0, slice(4, 6))]


def test_an_error_leaves_the_flags_as_they_were(blocks, monkeypatch):
    from llmbrain.pruning import blockwise

    model = tiny_model("llama")
    model.model.norm.weight.requires_grad_(False)
    monkeypatch.setattr(blockwise.Descent, "step", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cut(model, blocks, [np.arange(24)] * 4, "affine", Options(block_steps=5))
    assert [k for k, p in model.named_parameters() if not p.requires_grad] == ["model.norm.weight"]


def test_half_precision_learns_from_small_steps(blocks):
    model = tiny_model("llama").to(torch.bfloat16)
    table = cut(model, blocks, [np.arange(24)] * 4, "none", Options(block_steps=60))
    assert model.dtype == torch.bfloat16 and table.reconstruction.min() < 0.95


def test_fits_need_the_stream_as_their_target():
    for other in ({"target": "layer"}, {"propagation": "one-shot"}):
        with pytest.raises(ParameterError, match="block_steps=5"):
            Options(block_steps=5, **other)


@pytest.mark.parametrize("name", ["bloom", "llama"])
def test_some_windows_of_a_block_run_as_in_the_whole_block(name, blocks):
    """Position biases of Bloom have a row for each window and head."""
    walk, rows = Walk(tiny_model(name), blocks), slice(1, 3)
    mask = walk.masks[0][rows]
    assert walk.has_rows()
    torch.testing.assert_close(walk.rows(0, 0, walk.hidden[0][rows], rows)[mask], walk.run(0, 0)[rows][mask])


def test_whole_blocks_are_read_where_windows_cannot_be_run_alone(blocks, monkeypatch):
    model, rows_of = tiny_model("llama"), Walk.rows

    def refuse(self, layer, block, hidden, rows):
        if rows.stop - rows.start < len(self.masks[block]):
            raise RuntimeError("The expanded size of the tensor must match")
        return rows_of(self, layer, block, hidden, rows)

    monkeypatch.setattr(Walk, "rows", refuse)
    assert not Walk(model, blocks).has_rows()
    table = cut(model, blocks, [np.arange(24)] * 4, "none", Options(block_steps=30))
    assert table.reconstruction.min() < 0.97
    assert chunks_of([torch.ones(5, 8, dtype=torch.bool)], [], None) == [(0, slice(0, 5))]


@pytest.mark.parametrize("span", [1, 2, 3])
def test_blocks_that_are_fitted_together_read_what_the_blocks_before_them_write_now(span, blocks, monkeypatch):
    from llmbrain.pruning import cut as module

    model, seen, plain = tiny_model("llama"), [], module.fit_blocks

    def fit(walk, layers, *args):
        now = Walk(model, blocks)
        for i in range(layers[0]):
            now.advance(i)
        gap = max(float((a - b)[m].abs().max()) for a, b, m in zip(walk.hidden, now.hidden, walk.masks))
        seen.append((list(layers), gap))
        return plain(walk, layers, *args)

    monkeypatch.setattr(module, "fit_blocks", fit)
    table = cut(model, blocks, [np.arange(24)] * 4, "affine", Options(block_steps=20, block_span=span))
    assert [layers for layers, _ in seen] == [list(range(max(0, i - span + 1), i + 1)) for i in range(4)]
    assert max(gap for _, gap in seen) < 1e-4 and (table.reconstruction <= 1).all()

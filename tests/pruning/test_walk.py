"""Calibration blocks, held-out tokens, and walks that equal the model."""

import numpy as np
import pytest
import torch
from tiny import tiny_model

from llmbrain.exceptions import CorpusError, NumericalError
from llmbrain.models.surgery import (
    prunable_mlps,
)
from llmbrain.pruning.allocation.supernet import Supernet
from llmbrain.pruning.calibration import (
    calibration_blocks,
    calibration_hash,
    held_out_share,
    n_calibration_tokens,
    split_windows,
    thin_out,
)
from llmbrain.pruning.walk import Walk

TEXTS = ["the cat sat on the mat and then the rain in spain fell on it " * 3 + str(i) * i for i in range(10)]
SENTENCES = [f"the cat number {i} sat on the mat and then the rain in spain fell over hills {i * 7}" for i in range(16)]


def logits(model, ids):
    with torch.no_grad():
        return model(ids).logits


def state_of(model):
    """What a walk might leave behind on any module: its own forward, and hooks."""
    return [
        (id(m), id(m.__dict__.get("forward")), len(m._forward_hooks), len(m._forward_pre_hooks))
        for m in model.modules()
    ]


def test_held_out_blocks_are_spread():
    assert sum(held_out_share(16, 0.25)) == 4
    assert sum(held_out_share(2, 0.01)) == 1
    assert held_out_share(1) == [False]


@pytest.mark.parametrize(("windows", "length"), [(1, 1024), (2, 1024), (8, 512), (64, 1024), (3, 40), (1, 5)])
def test_enough_tokens_are_held_out_at_every_size(windows, length):
    from llmbrain.pruning.calibration import held_out_masks

    masks = [torch.ones(min(4, windows - i), length, dtype=torch.bool) for i in range(0, windows, 4)]
    masks[-1][-1, length - 2 :] = False  # padding
    held = held_out_masks(masks, 0.125)
    n = sum(int(m.sum()) for m in masks)
    n_held = sum(int(h.sum()) for h in held)
    assert 0 < n_held < 0.5 * n and not any(bool((h & ~m).any()) for h, m in zip(held, masks))
    if n > 4096:
        assert abs(n_held / n - 0.125) < 0.02
    elif n > 1000:
        assert 250 <= n_held <= 520
    assert not any(bool(h.any()) for h in held_out_masks(masks, 0.0))


def test_blocks_hold_every_token_once(tokenizer):
    blocks = calibration_blocks(tokenizer, TEXTS, context=40, batch_size=3)
    n_text = sum(len(tokenizer(t, add_special_tokens=False)["input_ids"]) for t in TEXTS)
    n_windows = sum(len(block) for block in blocks)
    assert n_calibration_tokens(blocks) == n_text + n_windows  # every window begins with BOS
    assert all((block.ids[:, 0] == tokenizer.bos_token_id).all() for block in blocks)
    assert n_calibration_tokens(calibration_blocks(tokenizer, TEXTS, context=40, max_tokens=100)) == 100
    again = calibration_blocks(tokenizer, TEXTS, context=40, batch_size=3)
    assert calibration_hash(blocks) == calibration_hash(again)
    assert calibration_hash(blocks) != calibration_hash(blocks[:-1])
    with pytest.raises(CorpusError):
        calibration_blocks(tokenizer, ["x"])


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "gemma3", "opt", "phi", "falcon", "bloom", "gptj"])
def test_walking_layer_by_layer_is_running_the_model(name, tokenizer):
    model = tiny_model(name)
    blocks = calibration_blocks(tokenizer, TEXTS, context=48, batch_size=4)
    walk = Walk(model, blocks)
    walk.check()
    seen = []
    handle = walk.layers[-1].register_forward_hook(lambda m, a, o: seen.append(o[0] if isinstance(o, tuple) else o))
    with torch.no_grad():
        for block in blocks:
            model(**block.inputs("cpu"))
    handle.remove()
    for i in range(len(walk.layers)):
        walk.advance(i)
    for got, want, mask in zip(walk.hidden, seen, walk.masks):
        torch.testing.assert_close(got[mask], want[mask], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
def test_walks_leave_forward_and_hooks_alone(name, tokenizer):
    model = tiny_model(name)
    blocks = calibration_blocks(tokenizer, SENTENCES, context=32)
    first = Walk(model, blocks).layers
    own = first[1].forward  # a forward of its own, as some libraries put there, must come back too
    first[1].forward = lambda *args, **kwargs: own(*args, **kwargs)
    ids = torch.arange(20)[None]
    before, logits = state_of(model), model(ids).logits
    walk = Walk(model, blocks)
    for layer in range(4):
        walk.advance(layer)
    assert state_of(model) == before
    assert torch.equal(model(ids).logits, logits)


@pytest.mark.parametrize("broken", ["first", "embedding", "norm"])
def test_a_walk_that_fails_leaves_the_model_whole(broken, tokenizer):
    """Wherever the pass breaks: in the first layer, before it, or behind the layers that were exchanged."""
    model = tiny_model("llama")
    blocks = calibration_blocks(tokenizer, SENTENCES, context=32)
    ids = torch.arange(20)[None]
    logits = model(ids).logits
    inner = model.model
    where = {"first": inner.layers[0].mlp, "embedding": inner.embed_tokens, "norm": inner.norm}[broken]

    def fail(module, args):
        raise RuntimeError("planted")

    handle = where.register_forward_pre_hook(fail)
    before = state_of(model)
    with pytest.raises(RuntimeError, match="planted"):
        Walk(model, blocks)
    assert state_of(model) == before
    handle.remove()
    assert torch.equal(model(ids).logits, logits)


def test_many_blocks_are_held_out_whole(tokenizer):
    many = calibration_blocks(tokenizer, TEXTS, context=32, batch_size=4)
    fit, held = split_windows(many, 0.25)
    assert [len(fit), len(held)] == [10, 3] and not {id(b) for b in fit} & {id(b) for b in held}
    assert split_windows(many, 0) == (many, many)


def test_text_is_thinned_to_windows_and_a_single_window_to_its_beginning(tokenizer):
    many = calibration_blocks(tokenizer, TEXTS, context=32, batch_size=4)
    few = thin_out(many, 320)
    assert thin_out(many, 10_000) is many and 280 < sum(block.n_tokens for block in few) < 360
    (block,) = thin_out(many[:1], 20)
    assert block.windows[0].ids.tolist() == many[0].windows[-1].ids[:20].tolist() and len(block.windows) == 1


def test_of_few_blocks_the_ends_of_all_windows_are_held_out(tokenizer):
    """Each text is read on both sides, and no token but the special ones at the head is read on both."""
    blocks = calibration_blocks(tokenizer, TEXTS, context=34, batch_size=10, bos=True)
    fit, held = split_windows(blocks, 0.25)
    by_place = {(w.document, w.number): w for b in blocks for w in b.windows}
    long = {place for place, w in by_place.items() if len(w) >= 34}
    assert {(w.document, w.number) for b in fit for w in b.windows} == set(by_place) and long
    assert {(w.document, w.number) for b in held for w in b.windows} >= long
    starts = {(w.document, w.number): w for b in fit for w in b.windows}
    for end in (w for b in held for w in b.windows):
        whole, start = by_place[end.document, end.number], starts[end.document, end.number]
        n_head = int(np.argmax(whole.kept))
        assert n_head == 1 and end.ids[0] == whole.ids[0] and not end.kept[0]
        assert np.concatenate([start.ids, end.ids[1:]]).tolist() == whole.ids.tolist()
        assert np.concatenate([start.positions, end.positions[1:]]).tolist() == whole.positions.tolist()
        assert len(end) - 1 == round(0.25 * (len(whole) - 1))


def test_of_few_windows_some_are_held_out_and_a_single_one_is_on_both_sides(tokenizer):
    few = calibration_blocks(tokenizer, TEXTS, context=32, batch_size=2, max_tokens=32 * 4)
    assert [sum(len(b.ids) for b in side) for side in split_windows(few, 0.25)] == [3, 1]
    short = calibration_blocks(tokenizer, TEXTS[:1], context=512, max_tokens=20)
    assert split_windows(short, 0.25) == (short, short) and split_windows(few, 0) == (few, few)


def test_the_hash_is_one_of_tokens_not_of_batches(tokenizer):
    hashes = {calibration_hash(calibration_blocks(tokenizer, TEXTS, context=32, batch_size=n)) for n in (1, 3, 8)}
    assert len(hashes) == 1
    assert calibration_hash(calibration_blocks(tokenizer, TEXTS, context=16)) not in hashes


def test_walks_do_not_touch_the_model(tokenizer, texts):
    model = tiny_model("llama")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    Walk(model, calibration_blocks(tokenizer, texts[:3], context=64)).check()
    Supernet(model, prunable_mlps(model), [torch.arange(48)] * 4, [[24]] * 4)
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()) == hooks
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_a_model_that_is_not_finite_is_not_pruned(tokenizer):
    blocks = calibration_blocks(tokenizer, TEXTS, context=32, max_tokens=200)
    for name in ("model.norm", "model.layers.1.input_layernorm", "lm_head"):
        model = tiny_model("llama")
        with torch.no_grad():
            model.get_submodule(name).weight.view(-1)[0] = float("inf")
        with pytest.raises(NumericalError, match=f"{name}.weight hold nan or inf"):
            Walk(model, blocks)


def test_overflow_on_the_way_is_named(tokenizer):
    model = tiny_model("llama", scale=4.0).to(torch.float16)
    with torch.no_grad():
        model.model.layers[2].mlp.up_proj.weight *= 3e3
        model.model.layers[2].mlp.gate_proj.weight *= 3e3
    walk = Walk(model, calibration_blocks(tokenizer, TEXTS, context=32, max_tokens=200))
    walk.advance(0)
    walk.advance(1)
    with pytest.raises(NumericalError, match=r"calibration text are not finite; .*layers.2.mlp.*bfloat16"):
        walk.advance(2)

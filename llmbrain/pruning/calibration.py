"""Calibration text: windows of tokens in padded blocks, and the windows or tokens that are held out."""

import hashlib
from dataclasses import replace

import numpy as np
import torch

from ..text import batches, text_windows

_FEW = 8  # with fewer blocks than this, ends of windows are held out; with fewer windows, whole ones
_END = 0.25  # share of a window that is held out then
_SHORTEST = 8  # tokens of such an end
_SEGMENT = 64  # most tokens of a segment


def calibration_windows(tokenizer, texts, *, context=1024, max_tokens=None, bos="auto"):
    """Cut texts into windows of at most ``context`` tokens; arguments as for :func:`calibration_blocks`."""
    texts = [texts] if isinstance(texts, str) and "\n" in texts else texts  # a line break: a text, not a path
    return text_windows(texts, tokenizer, context, bos=bos, max_tokens=max_tokens)[0]


def calibration_blocks(tokenizer, texts, *, context=1024, max_tokens=None, batch_size=8, bos="auto"):
    """Cut texts into windows and group them into padded batches.

    Parameters
    ----------
    tokenizer : transformers tokenizer
    texts : Corpus, str, list of str, or list of llmbrain.text.Window
        Whatever :func:`llmbrain.text.as_corpus` takes; a string with a line break is a text, not a path.
    context : int
        Tokens of a window, leading special tokens included. Windows do not overlap.
    max_tokens : int, optional
        Stop after ``max_tokens`` tokens, leading special tokens included; the last window is cut to fit.
    batch_size : int
        Windows in a block.
    bos : {"auto", True, False}
        Special tokens at the head of every window, see :func:`llmbrain.text.leading_tokens`.

    Returns
    -------
    list of llmbrain.text.Batch
        Windows of full length come first, in the order of the text; shorter ones follow.

    Raises
    ------
    CorpusError
        If a text has fewer than two tokens.
    """
    windows = calibration_windows(tokenizer, texts, context=context, max_tokens=max_tokens, bos=bos)
    return group_blocks(windows, batch_size, context)


def group_blocks(windows, batch_size, context=None):
    """Group windows into padded batches; those of full length need no padding, which keeps attention fast."""
    longest = context or max(map(len, windows))
    full = [window for window in windows if len(window) == longest]
    short = [window for window in windows if len(window) < longest]
    return [block for group in (full, short) for block in batches(group, max_rows=batch_size)]


def split_windows(blocks, share):
    """Split blocks into those to fit on and those held out.

    Of many blocks a ``share`` is held out. With fewer than eight blocks, the last quarter of every window is, behind
    the special tokens of its head, because single windows would decide for all kinds of text. With fewer than eight
    windows a ``share`` of the windows is held out; a single one serves as both.
    """
    if len(blocks) >= _FEW:
        chosen = _hold_out([block.n_tokens for block in blocks], share)
        return tuple([b for b, h in zip(blocks, chosen) if h == held] or blocks for held in (False, True))
    windows = [window for block in blocks for window in block.windows]
    if share and len(windows) >= _FEW:
        parts = [_cut_off(window, _END) for window in windows]
        sides = [[part for part in side if part is not None] for side in zip(*parts)]
    else:
        chosen = _hold_out([len(window) for window in windows], share)
        sides = [[w for w, h in zip(windows, chosen) if h == held] for held in (False, True)]
    size = max(len(block.ids) for block in blocks)
    return tuple(group_blocks(side, size) for side in sides) if all(sides) else (blocks, blocks)


def _cut_off(window, share):
    """Cut the last ``share`` off a window and put its leading special tokens before it; None if it is too short."""
    n_head = int(np.argmax(window.kept))
    n_end = round((len(window) - n_head) * share)
    if n_end < _SHORTEST:
        return window, None
    places = np.r_[:n_head, len(window) - n_end : len(window)]
    parts = {name: getattr(window, name)[places] for name in ("ids", "kept", "positions")}
    return window.first(len(window) - n_end), replace(window, **parts)


def thin_out(blocks, most):
    """Evenly spread windows of about ``most`` tokens in blocks of the same size, or all blocks if they hold no more.

    A single window is cut to its first ``most`` tokens.
    """
    total = n_calibration_tokens(blocks)
    if total <= most:
        return blocks
    windows = [window for block in blocks for window in block.windows]
    chosen = held_out_share(len(windows), most / total)
    few = [w for w, c in zip(windows, chosen) if c] or windows[:1]
    few = few if len(few) > 1 else [few[0].first(most)]
    return group_blocks(few, max(len(block.ids) for block in blocks))


def _hold_out(sizes, share):
    """Choose which of several items are held out; those of less than half the largest size never are.

    The last window of a text holds what is left, sometimes a few tokens, which would decide nothing.
    """
    large = [2 * size >= max(sizes) for size in sizes]
    chosen = iter(held_out_share(sum(large), share))
    return [is_large and next(chosen) for is_large in large]


def held_out_share(n_blocks, share=0.125):
    """Choose the evenly spread items to hold out, at least one of two or more; True where an item is held out.

    Examples
    --------
    >>> held_out_share(8, 0.25)
    [False, False, False, True, False, False, False, True]
    """
    n_held = 0 if n_blocks < 2 or not share else max(1, round(n_blocks * share))
    held = {round((i + 1) * n_blocks / n_held) - 1 for i in range(n_held)}
    return [i in held for i in range(n_blocks)]


def held_out_masks(masks, share=0.125):
    """Choose the calibration tokens to hold out, as masks like ``masks``, shape (n_windows, n_longest) for each block.

    Whole blocks are held out, or windows if there are few blocks, or segments of windows if there are few windows.

    Examples
    --------
    >>> [int(m.sum()) for m in held_out_masks([torch.ones(2, 1024, dtype=torch.bool)])]
    [512]
    >>> held_out_masks([torch.ones(4, 8, dtype=torch.bool)] * 2, 0.25)[0].all(1).tolist()
    [False, False, False, True]
    """
    n_tokens = sum(int(m.sum()) for m in masks)
    # about 512 tokens, but never more than three tenths, where the share alone would hold out fewer
    share = max(share, min(0.3, 512 / max(n_tokens, 1))) if share else 0.0
    if len(masks) >= _FEW:
        chosen = _hold_out([int(m.sum()) for m in masks], share)
        return [m.clone() if held else torch.zeros_like(m) for m, held in zip(masks, chosen)]
    if sum(map(len, masks)) >= _FEW:
        held = iter(_hold_out([int(row.sum()) for m in masks for row in m], share))
        return [torch.tensor([next(held) for _ in m], device=m.device)[:, None] & m for m in masks]
    lengths = [int(row.sum()) for m in masks for row in m]
    size = max(1, min(_SEGMENT, n_tokens // 16))
    pieces = [-(-n // size) for n in lengths]
    chosen = held_out_share(sum(pieces), share) if n_tokens > 1 else [False] * sum(pieces)
    found, start, row = [], 0, 0
    for m in masks:
        mask = torch.zeros_like(m)
        for i in range(len(m)):
            for j in range(pieces[row]):
                mask[i, j * size : (j + 1) * size] = chosen[start + j]
            start, row = start + pieces[row], row + 1
        found.append(mask & m)
    return found


def n_calibration_tokens(blocks):
    """Count the tokens of all blocks, without padding."""
    return sum(block.n_tokens for block in blocks)


def calibration_hash(blocks):
    """SHA-256 of the token ids of all windows, which identifies the calibration of a result."""
    digest = hashlib.sha256()
    for block in blocks:
        for window in block.windows:
            digest.update(len(window).to_bytes(8, "little"))
            digest.update(np.ascontiguousarray(window.ids))
    return digest.hexdigest()

"""Calibration text as blocks of token ids, and a walk that carries them through the model one layer at a time."""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch

from ..exceptions import CorpusError, ParameterError, UnsupportedArchitectureError
from ..models.anatomy import anatomy_of
from ..models.inputs import input_device

__all__ = [
    "Block",
    "Walk",
    "calibration_blocks",
    "calibration_hash",
    "calibration_windows",
    "held_out_masks",
    "held_out_share",
    "n_calibration_tokens",
    "split_windows",
    "token_ids",
]


@dataclass(frozen=True)
class Block:
    """Some windows of text, right-padded to one length.

    Attributes
    ----------
    ids : torch.Tensor of int64, shape (n_windows, n_longest)
    mask : torch.Tensor of bool, shape (n_windows, n_longest)
        False at padding.
    """

    ids: torch.Tensor
    mask: torch.Tensor

    @property
    def n_tokens(self):
        """Tokens without padding."""
        return int(self.mask.sum())

    def inputs(self, device):
        """Keyword arguments for a model; the mask only where there is padding, which keeps attention fast."""
        ids, mask = self.ids.to(device), self.mask.to(device)
        if bool(self.mask.all()):
            return {"input_ids": ids}
        positions = (mask.long().cumsum(1) - 1).clamp_min(0)
        return {"input_ids": ids, "attention_mask": mask.long(), "position_ids": positions}


def calibration_windows(tokenizer, texts, *, context=1024, n_tokens=None):
    """Cut texts into windows of at most ``context`` tokens, in the order of the text.

    Parameters
    ----------
    tokenizer, texts, context, n_tokens
        See :func:`calibration_blocks`.

    Returns
    -------
    list of numpy.ndarray of int

    Raises
    ------
    CorpusError
        If fewer than two tokens remain.
    """
    if context < 2:
        raise ParameterError(f"context={context} must be at least 2.")
    windows, total = [], 0
    for ids in token_ids(tokenizer, texts):
        if n_tokens is not None:
            ids = ids[: n_tokens - total]
        pieces = [ids[i : i + context] for i in range(0, len(ids), context)]
        pieces = [piece for piece in pieces if len(piece) >= 2]
        windows += pieces
        total += sum(map(len, pieces))
        if n_tokens is not None and total >= n_tokens - 1:
            break
    if not windows:
        raise CorpusError("The calibration text has fewer than two tokens.")
    return windows


def calibration_blocks(tokenizer, texts, *, context=1024, n_tokens=None, batch_size=8):
    """Cut texts into windows of at most ``context`` tokens and group them.

    Parameters
    ----------
    tokenizer : transformers tokenizer
    texts : Corpus, str or list of str
        Whatever :func:`llmbrain.text.as_corpus` takes, or a list of arrays of token ids (then no tokenizer is used).
    context : int
        Longest window, tokens. Windows do not overlap.
    n_tokens : int, optional
        Stop after so many tokens; the last window is cut to fit.
    batch_size : int
        Windows in a block.

    Returns
    -------
    list of Block
        Windows of full length first come in the order of the text; shorter ones follow.

    Raises
    ------
    CorpusError
        If fewer than two tokens remain.
    """
    if context < 2 or batch_size < 1:
        raise ParameterError(f"context={context} and batch_size={batch_size} must be at least 2 and 1.")
    return _group(calibration_windows(tokenizer, texts, context=context, n_tokens=n_tokens), batch_size, context)


def _group(windows, batch_size, context=None):
    """Blocks of windows; those of full length first."""
    longest = context or max(map(len, windows))
    full = [w for w in windows if len(w) == longest]
    short = sorted((w for w in windows if len(w) < longest), key=len, reverse=True)
    return [_pad(group[i : i + batch_size]) for group in (full, short) for i in range(0, len(group), batch_size)]


def token_ids(tokenizer, texts):
    """Token ids of each text; a list of arrays of token ids is handed on."""
    if isinstance(texts, (list, tuple)) and texts and not isinstance(texts[0], str) and np.ndim(texts[0]) == 1:
        yield from (np.asarray(ids, dtype=np.int64) for ids in texts)
        return
    from ..text import as_corpus, encode

    if isinstance(texts, str) and "\n" in texts:  # a text, not the path of one
        texts = [texts]
    for document in as_corpus(texts).documents:
        yield encode([document], tokenizer)[0].ids


def _pad(windows):
    longest = max(map(len, windows))
    ids = np.zeros((len(windows), longest), dtype=np.int64)
    mask = np.zeros((len(windows), longest), dtype=bool)
    for row, window in enumerate(windows):
        ids[row, : len(window)] = window
        mask[row, : len(window)] = True
    return Block(torch.from_numpy(ids), torch.from_numpy(mask))


def split_windows(blocks, share):
    """Blocks to fit on and blocks to judge by, spread evenly; windows, where there are fewer than eight blocks.

    Both are all of them where there is only one window.

    Parameters
    ----------
    blocks : list of Block
    share : float
        Of what is held out.

    Returns
    -------
    fit, held : list of Block
    """
    if len(blocks) >= 8:
        chosen = held_out_share(len(blocks), share)
        return tuple([b for b, h in zip(blocks, chosen) if h == held] or blocks for held in (False, True))
    windows = [row[keep].numpy() for block in blocks for row, keep in zip(block.ids, block.mask)]
    chosen = held_out_share(len(windows), share)
    size = max(len(block.ids) for block in blocks)
    sides = [[w for w, h in zip(windows, chosen) if h == held] for held in (False, True)]
    return tuple(_group(side, size) for side in sides) if all(sides) else (blocks, blocks)


def held_out_share(n_blocks, share=0.125):
    """Choose evenly spread calibration blocks to hold out for choosing regularisation; at least one of two or more.

    Returns
    -------
    list of bool
        True where a block is held out.

    Examples
    --------
    >>> held_out_share(8, 0.25)
    [False, False, False, True, False, False, False, True]
    """
    n_held = 0 if n_blocks < 2 or not share else max(1, round(n_blocks * share))
    held = {round((i + 1) * n_blocks / n_held) - 1 for i in range(n_held)}
    return [i in held for i in range(n_blocks)]


def held_out_masks(masks, share=0.125, *, segment=64, few=8):
    """Choose the calibration tokens to hold out: whole blocks, or windows if there are few blocks, or segments.

    Below 4,096 tokens the share grows so that about 500 tokens are held out, but never more than three tenths.

    Parameters
    ----------
    masks : list of torch.Tensor of bool, shape (n_windows, n_longest)
        Real tokens of each block.
    share : float
    segment : int
        Tokens per segment.
    few : int
        With fewer blocks than this, windows are held out; with fewer windows, segments.

    Returns
    -------
    list of torch.Tensor of bool, shape (n_windows, n_longest)

    Examples
    --------
    >>> [int(m.sum()) for m in held_out_masks([torch.ones(2, 1024, dtype=torch.bool)])]
    [512]
    >>> held_out_masks([torch.ones(4, 8, dtype=torch.bool)] * 2, 0.25)[0].all(1).tolist()
    [False, False, False, True]
    """
    n_tokens = sum(int(m.sum()) for m in masks)
    share = max(share, min(0.3, 512 / max(n_tokens, 1))) if share else 0.0
    if len(masks) >= few:
        return [m.clone() if held else torch.zeros_like(m) for m, held in zip(masks, held_out_share(len(masks), share))]
    if sum(map(len, masks)) >= few:
        held = iter(held_out_share(sum(map(len, masks)), share))
        return [torch.tensor([next(held) for _ in m], device=m.device)[:, None] & m for m in masks]
    lengths = [int(row.sum()) for m in masks for row in m]
    size = max(1, min(segment, n_tokens // 16))
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
    """Tokens in all blocks, without padding."""
    return sum(block.n_tokens for block in blocks)


def calibration_hash(blocks):
    """SHA-256 over the windows of token ids, so that two results can be known to share their calibration."""
    digest = hashlib.sha256()
    for block in blocks:
        for row, keep in zip(block.ids, block.mask):
            ids = np.ascontiguousarray(row[keep].numpy())
            digest.update(len(ids).to_bytes(8, "little"))
            digest.update(ids)
    return digest.hexdigest()


class Walk:
    """Carries calibration blocks through a decoder, one layer at a time.

    Only the inputs of the current layer are held: ``n_tokens * hidden_size`` numbers.

    Parameters
    ----------
    model : transformers.PreTrainedModel
    blocks : list of Block

    Attributes
    ----------
    layers : list of torch.nn.Module
    hidden : list of torch.Tensor
        For each block the input of the layer that comes next, shape (n_windows, n_longest, hidden_size).
    """

    def __init__(self, model, blocks):
        self.model, self.blocks = model, blocks
        self.layers = anatomy_of(model).layers
        self.device = input_device(model)
        self.masks = [b.mask.to(self.device) for b in blocks]
        self.hidden, self._arguments = [], []
        for block in blocks:
            self._capture(block)

    @torch.no_grad()
    def _capture(self, block):
        """Note what the decoder hands to each of its layers besides the hidden states.

        Only the first layer computes, and shows what a layer returns; the others hand on what they are given.
        """
        arguments, first, rest = [], [], []

        def note(args, kwargs):
            hidden = args[0] if args else kwargs["hidden_states"]
            arguments.append((args[1:], {k: v for k, v in kwargs.items() if k != "hidden_states"}))
            return hidden

        def before(module, args, kwargs):
            first.append(note(args, kwargs))

        def after(module, args, output):
            rest[:] = [output[1:] if isinstance(output, tuple) else None]

        def skip(*args, **kwargs):
            hidden = note(args, kwargs)
            return hidden if rest[0] is None else (hidden, *rest[0])

        handles = [
            self.layers[0].register_forward_pre_hook(before, with_kwargs=True),
            self.layers[0].register_forward_hook(after),
        ]
        own = [layer.__dict__.get("forward") for layer in self.layers]
        try:
            for layer in self.layers[1:]:
                layer.forward = skip
            self.model.base_model(**block.inputs(self.device), use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
            for layer, forward in zip(self.layers[1:], own[1:]):
                layer.__dict__.pop("forward", None)
                if forward is not None:
                    layer.forward = forward
        if len(arguments) != len(self.layers):
            raise UnsupportedArchitectureError(
                f"{type(self.model).__name__} ran {len(arguments)} of its {len(self.layers)} layers; it cannot be "
                "walked layer by layer."
            )
        self.hidden.append(first[0])
        self._arguments.append(arguments)

    @torch.no_grad()
    def run(self, layer, block, hidden=None):
        """Output of one layer for one block, with what the model itself would hand to it.

        Parameters
        ----------
        layer : int
        block : int
        hidden : torch.Tensor, optional
            Taken instead of ``self.hidden[block]``.
        """
        args, kwargs = self._arguments[block][layer]
        return _first(self.layers[layer](self.hidden[block] if hidden is None else hidden, *args, **kwargs))

    def advance(self, layer):
        """Replace the hidden states by the outputs of ``layer``."""
        for i in range(len(self.blocks)):
            self.hidden[i] = self.run(layer, i)

    def restart(self, hidden):
        """Put other hidden states in the place of the current ones."""
        self.hidden = list(hidden)

    @torch.no_grad()
    def check(self):
        """Whether walking layer by layer gives what the model gives (first block).

        Raises
        ------
        UnsupportedArchitectureError
            If layers share state that the walk does not carry.
        """
        last = []
        handle = self.layers[-1].register_forward_hook(lambda module, args, output: last.append(_first(output)))
        try:
            self.model.base_model(**self.blocks[0].inputs(self.device), use_cache=False)
        finally:
            handle.remove()
        hidden = self.hidden[0]
        for i in range(len(self.layers)):
            hidden = self.run(i, 0, hidden)
        gap = float((hidden - last[0]).abs().max())
        if not gap <= 1e-3 * float(last[0].abs().max()):
            raise UnsupportedArchitectureError(
                f"{type(self.model).__name__} does not give the same result layer by layer (difference {gap:.3g}); "
                "its layers share state that cannot be carried."
            )


def _first(output):
    return output[0] if isinstance(output, tuple) else output

"""Taking units out of a model for good, or silencing them in place; both give the same logits."""

import torch

from ..exceptions import ParameterError
from .parts import even_heads, is_transposed, weight_of

__all__ = ["mask_heads", "mask_mlp", "set_linear", "slice_attention", "slice_mlp"]


def set_linear(module, weight, bias=None, *, keep_bias=True):
    """Give a linear new weights of any shape.

    Parameters
    ----------
    module : torch.nn.Linear or Conv1D
        Changed in place; keeps its dtype and device.
    weight : torch.Tensor, shape (n_outputs, n_inputs)
    bias : torch.Tensor, shape (n_outputs,), optional
        Taken as the whole bias.
    keep_bias : bool
        Whether an existing bias stays when ``bias`` is None.
    """
    like = module.weight
    stored = weight.T if is_transposed(module) else weight
    new = stored.to(like.device, like.dtype).contiguous().clone()
    module.weight = torch.nn.Parameter(new, requires_grad=like.requires_grad)
    if bias is not None:
        bias = bias.to(like.device, like.dtype).contiguous().clone()
        module.bias = torch.nn.Parameter(bias, requires_grad=like.requires_grad)
    elif not keep_bias and module.bias is not None:
        module.bias = None
    if is_transposed(module):
        module.nx, module.nf = module.weight.shape
    else:
        module.out_features, module.in_features = module.weight.shape


def _take_outputs(module, rows):
    weight = weight_of(module).index_select(0, rows.to(module.weight.device))
    bias = None if module.bias is None else module.bias.index_select(0, rows.to(module.bias.device))
    set_linear(module, weight, bias)


def _indices(kept, size, what):
    kept = torch.as_tensor(kept, dtype=torch.long).sort().values
    if len(kept) == 0 or int(kept[0]) < 0 or int(kept[-1]) >= size or len(kept.unique()) != len(kept):
        raise ParameterError(f"Kept {what} must be different numbers from 0 to {size - 1}, at least one of them.")
    return kept


@torch.no_grad()
def slice_mlp(part, kept, refit=None):
    """Keep some neurons of an MLP: rows of its readers, columns of its writer.

    Parameters
    ----------
    part : MLPPart
        Changed in place.
    kept : sequence of int
        Neurons that stay, in their order.
    refit : Refit, optional
        New columns and additional bias of the writer, in the order of sorted ``kept``.
    """
    size = weight_of(part.down).shape[1]
    kept = _indices(kept, size, "neurons")
    for _, module, parts in part.readers:
        _take_outputs(module, torch.cat([kept + i * size for i in range(parts)]))
    _write(part.down, kept, refit)
    for name in ("intermediate_size", "ffn_dim"):
        if isinstance(getattr(part.owner, name, None), int):
            setattr(part.owner, name, len(kept))


def _write(module, columns, refit):
    """Shorten the inputs of a writer, with refitted columns and an added bias if there are any."""
    columns = columns.to(module.weight.device)
    if refit is None:
        set_linear(module, weight_of(module).index_select(1, columns))
        return
    bias = refit.bias
    if bias is not None and module.bias is not None:
        bias = bias + module.bias.to(bias)
    set_linear(module, refit.weight, bias)


@torch.no_grad()
def slice_attention(part, kept_heads, refit=None):
    """Keep some query heads, and the key/value heads that they use.

    Parameters
    ----------
    part : AttentionPart
        Changed in place.
    kept_heads : sequence of int
        Query heads that stay: whole groups, or equally many of each group (:func:`even_heads` refuses others).
    refit : Refit, optional
        New columns and additional bias of the output projection.

    Returns
    -------
    n_heads, n_kv_heads : int
        What the layer has now.
    """
    heads, groups = even_heads(kept_heads, part.n_heads, part.n_kv_heads)
    rows, kv_rows = channels(heads, part.head_dim), channels(groups, part.head_dim)
    if "qkv" in part.readers:
        start = part.n_heads * part.head_dim
        stop = start + part.n_kv_heads * part.head_dim
        _take_outputs(part.readers["qkv"], torch.cat([rows, start + kv_rows, stop + kv_rows]))
    else:
        _take_outputs(part.readers["q"], rows)
        _take_outputs(part.readers["k"], kv_rows)
        _take_outputs(part.readers["v"], kv_rows)
    _write(part.out, rows, refit)
    set_head_counts(part.owner, len(heads), len(groups), part.head_dim)
    return len(heads), len(groups)


def set_head_counts(owner, n_heads, n_kv_heads, head_dim):
    """Correct every attribute by which attention modules of transformers count their heads."""
    values = {
        "num_heads": n_heads,
        "num_attention_heads": n_heads,
        "n_head": n_heads,
        "num_key_value_heads": n_kv_heads,
        "num_kv_heads": n_kv_heads,
        "num_key_value_groups": n_heads // n_kv_heads,
        "split_size": n_heads * head_dim,
    }
    for name, value in values.items():
        if isinstance(vars(owner).get(name), int):
            setattr(owner, name, value)


def channels(heads, head_dim):
    """Input channels of ``o_proj`` that belong to heads.

    Examples
    --------
    >>> channels(torch.tensor([0, 2]), 2).tolist()
    [0, 1, 4, 5]
    """
    return (heads[:, None] * head_dim + torch.arange(head_dim)[None, :].to(heads.device)).reshape(-1)


@torch.no_grad()
def mask_mlp(part, kept):
    """Silence the other neurons by zeroing the columns they write through; widths stay."""
    removed = torch.ones(part.size, dtype=torch.bool)
    removed[_indices(kept, part.size, "neurons")] = False
    weight_of(part.down)[:, removed.to(part.down.weight.device)] = 0


@torch.no_grad()
def mask_heads(part, kept_heads):
    """Silence the other heads by zeroing the columns they write through."""
    removed = torch.ones(part.n_heads * part.head_dim, dtype=torch.bool)
    removed[channels(_indices(kept_heads, part.n_heads, "heads"), part.head_dim)] = False
    weight_of(part.out)[:, removed.to(part.out.weight.device)] = 0

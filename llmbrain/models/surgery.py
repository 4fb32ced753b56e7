"""Slice neurons and heads out of a model, or silence them in place; both give the same logits."""

import inspect

import torch

from ..exceptions import ParameterError, UnsupportedArchitectureError
from .anatomy import anatomy_of
from .linears import is_transposed, weight_of
from .parts import modules_of

# Attributes of modules of transformers that hold numbers of neurons and heads; slicing corrects those that exist.
WIDTH_COUNTS = ("intermediate_size", "ffn_dim")
HEAD_COUNTS = (
    "num_heads", "num_attention_heads", "n_head", "num_key_value_heads", "num_kv_heads", "num_key_value_groups",
    "split_size", "embed_dim",
)  # fmt: skip


def weights_of(linears):
    """Keep the weights of linears; returns the call that puts them back."""
    kept = [(linear, linear.weight, linear.bias) for linear in linears]

    def put_back():
        for linear, weight, bias in kept:
            linear.weight, linear.bias = weight, bias
            count_features(linear)

    return put_back


# -- what can be sliced -----------------------------------------------------------------------------------------------
def prunable_mlps(model):
    """Find the MLP of every block for slicing, or raise with the reason why this model cannot be sliced."""
    blocks = anatomy_of(model).blocks
    _check_dense(model, blocks)
    missing = [block.layer for block in blocks if block.mlp is None]
    if missing:
        raise UnsupportedArchitectureError(
            f"Only models with an MLP in every layer can be pruned; {type(model).__name__} has none in layers "
            f"{', '.join(map(str, missing))}."
        )
    for block in blocks:
        _check_parameters(block.mlp)
    if len({id(block.mlp.writer) for block in blocks}) < len(blocks):
        raise UnsupportedArchitectureError(
            f"Several layers of {type(model).__name__} share one MLP ({blocks[0].mlp.name}), which cannot be pruned by "
            "layer."
        )
    return [block.mlp for block in blocks]


def prunable_attentions(model):
    """Find the attention of every block for slicing heads, or raise with the reason why they cannot be sliced."""
    blocks = anatomy_of(model).blocks
    _check_dense(model, blocks)
    for block in blocks:
        attention, why = block.attention, None
        if attention is None:
            why = "it has no attention"
        elif not attention.readers:
            why = "the layout of its query, key and value projections is unknown"
        elif getattr(block.config, "num_kv_shared_layers", 0):
            why = "its layers share keys and values"
        elif "alibi" in inspect.signature(attention.owner.forward).parameters:
            why = "the model adds a bias for each head, whose number is that of its config (ALiBi)"
        elif _other_parameters(attention):
            why = "its attention has parameters besides projections that depend on the heads"
        if why:
            raise UnsupportedArchitectureError(
                f"Heads of {block.name} ({type(block.module).__name__}) cannot be pruned: {why}. Prune MLP neurons "
                "alone (heads=False)."
            )
    return [block.attention for block in blocks]


def attention_writers(model):
    """Find the attention of every block for refitting its writer, which works for any layout of the heads.

    A block without an attention, or with one that is not understood, has None.
    """
    return [_attention_or_none(block) for block in anatomy_of(model).blocks]


def _attention_or_none(block):
    try:
        return block.attention
    except UnsupportedArchitectureError:
        return None


def _check_dense(model, blocks):
    """Refuse mixtures of experts, offloaded weights and quantised weights."""
    experts = next((block for block in blocks if block.experts), None)
    if experts is not None:
        path, module = experts.experts
        raise UnsupportedArchitectureError(
            f"{type(model).__name__} is a mixture of experts ({path}: {type(module).__name__}), whose experts share "
            "tensors that llmbrain does not slice. Prune a dense model."
        )
    meta = next((n for n, p in model.named_parameters() if p.device.type == "meta"), None)
    if meta is not None:
        raise UnsupportedArchitectureError(
            f"The weights of {meta} are offloaded (device 'meta'). Load the whole model on one device before pruning."
        )
    quantised = next((n for n, p in model.named_parameters() if not p.dtype.is_floating_point), None)
    if getattr(model, "is_quantized", False) or quantised is not None:
        where = f" ({quantised})" if quantised else ""
        raise UnsupportedArchitectureError(
            f"{type(model).__name__} is quantised{where}; packed weights cannot be sliced. Load it dequantised "
            "(dtype='float32' or 'bfloat16'), prune it, and quantise the result."
        )


def _check_parameters(mlp):
    """Refuse an MLP with other parameters per neuron than those of its linears, such as a norm over the neurons."""
    if mlp.owner is mlp.block.module:  # the parameters of a block belong to its norms and its attention
        return
    for name, module in mlp.owner.named_modules():
        if module not in mlp.linears and any(mlp.size in p.shape for p in module.parameters(recurse=False)):
            raise UnsupportedArchitectureError(
                f"{mlp.block.name} cannot be pruned: besides its linears, {name or 'the MLP'} "
                f"({type(module).__name__}) has parameters per neuron, which llmbrain does not know how to slice."
            )


def _other_parameters(attention):
    """Whether an attention has parameters that depend on the heads besides its linears (OLMo-2's wide norms)."""
    return any(
        module is attention.owner or parameter.numel() != attention.head_dim
        for module in attention.owner.modules()
        if module not in attention.linears
        for parameter in module.parameters(recurse=False)
    )


# -- slicing ----------------------------------------------------------------------------------------------------------
def set_linear(module, weight, bias=None):
    """Give a linear a weight ``(n_outputs, n_inputs)`` of any shape, in place; its dtype and device do not change.

    ``bias`` replaces the whole bias; without it, an existing bias stays.
    """
    like = module.weight
    stored = weight.T if is_transposed(module) else weight
    new = stored.to(like.device, like.dtype).contiguous().clone()
    module.weight = torch.nn.Parameter(new, requires_grad=like.requires_grad)
    if bias is not None:
        bias = bias.to(like.device, like.dtype).contiguous().clone()
        module.bias = torch.nn.Parameter(bias, requires_grad=like.requires_grad)
    count_features(module)


def count_features(module):
    """Update the numbers of inputs and outputs of a linear after its weight was replaced."""
    if is_transposed(module):
        module.nx, module.nf = module.weight.shape
    else:
        module.out_features, module.in_features = module.weight.shape


def _take_outputs(module, rows):
    weight = weight_of(module).index_select(0, rows.to(module.weight.device))
    bias = None if module.bias is None else module.bias.index_select(0, rows.to(module.bias.device))
    set_linear(module, weight, bias)


def _indices(kept, size):
    kept = torch.as_tensor(kept, dtype=torch.long).sort().values
    if len(kept) == 0 or int(kept[0]) < 0 or int(kept[-1]) >= size or len(kept.unique()) != len(kept):
        raise ParameterError(f"Kept neurons must be distinct numbers from 0 to {size - 1}, at least one.")
    return kept


@torch.no_grad()
def slice_mlp(mlp, kept, refit=None):
    """Keep some neurons of an MLP, in their order: rows of its readers, columns of its writer.

    ``refit`` has new columns and an additional bias of the writer, in the order of sorted ``kept``.
    """
    mlp = mlp.now()
    kept = _indices(kept, mlp.size)
    for module, readers in modules_of(mlp.readers):
        _take_outputs(module, torch.cat([reader.start + kept for reader in readers]))
    _write(mlp.writer, kept, refit)
    set_width(mlp.owner, len(kept))


def _write(module, columns, refit):
    """Shorten the inputs of a writer, with refitted columns and an additional bias if there are any."""
    columns = columns.to(module.weight.device)
    if refit is None:
        set_linear(module, weight_of(module).index_select(1, columns))
        return
    bias = refit.bias
    if bias is not None and module.bias is not None:
        bias = bias + module.bias.to(bias)
    set_linear(module, refit.weight, bias)


@torch.no_grad()
def slice_attention(attention, kept_heads, refit=None):
    """Keep some query heads, and the key/value heads that they use; return the numbers of both.

    The query heads must be whole groups, or the same number from each group (see :func:`even_heads`). ``refit`` has new
    columns and an additional bias of the writer.
    """
    heads, groups = even_heads(kept_heads, attention.n_heads, attention.n_kv_heads)
    rows, kv_rows = channels(heads, attention.head_dim), channels(groups, attention.head_dim)
    for module, readers in modules_of(attention.readers):
        _take_outputs(module, torch.cat([r.start + (rows if r.size == attention.size else kv_rows) for r in readers]))
    _write(attention.writer, rows, refit)
    set_head_counts(attention.owner, len(heads), len(groups), attention.head_dim)
    return len(heads), len(groups)


def set_width(owner, width):
    """Correct the attributes of an MLP of transformers that hold its number of neurons."""
    _set_counts(owner, dict.fromkeys(WIDTH_COUNTS, width))


def set_head_counts(owner, n_heads, n_kv_heads, head_dim):
    """Correct the attributes of an attention of transformers that hold its numbers of heads."""
    counts = (n_heads, n_heads, n_heads, n_kv_heads, n_kv_heads, n_heads // n_kv_heads)
    widths = (n_heads * head_dim,) * 2
    _set_counts(owner, dict(zip(HEAD_COUNTS, counts + widths)))


def _set_counts(owner, counts):
    for name, value in counts.items():
        if isinstance(vars(owner).get(name), int):
            setattr(owner, name, value)


def channels(heads, head_dim):
    """Inputs of the attention's writer that belong to some heads: heads 0 and 2 of width 2 give 0, 1, 4, 5."""
    return (heads[:, None] * head_dim + torch.arange(head_dim)[None, :].to(heads.device)).reshape(-1)


def even_heads(kept_heads, n_heads, n_kv_heads):
    """Return sorted query heads and the key/value heads that they use, or raise after an uneven choice.

    A model pairs query head ``i`` with key/value head ``i // group`` by position alone. If the key/value heads that
    stay had different numbers of query heads, some would read the keys of another head, without any error.
    """
    group = n_heads // n_kv_heads
    heads = torch.as_tensor(sorted({int(i) for i in kept_heads}), dtype=torch.long)
    if len(heads) == 0 or int(heads.min()) < 0 or int(heads.max()) >= n_heads:
        raise ParameterError(f"Kept heads must be numbers from 0 to {n_heads - 1}, at least one; got {heads.tolist()}.")
    counts = torch.bincount(heads // group, minlength=n_kv_heads)
    used = counts[counts > 0]
    if int(used.min()) != int(used.max()):
        raise ParameterError(
            f"Query heads {heads.tolist()} leave {counts.tolist()} heads to the key/value heads; keep whole groups, or "
            "the same number in each group that stays."
        )
    return heads, counts.nonzero()[:, 0]

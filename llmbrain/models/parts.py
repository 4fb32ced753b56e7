"""What can be taken out of a model: MLP neurons, and attention heads in ways that keep queries and keys paired."""

from dataclasses import dataclass, replace

import torch

from ..exceptions import ParameterError, UnsupportedArchitectureError
from .sites import find_decoder_layers

__all__ = [
    "AttentionPart",
    "MLPPart",
    "check_prunable",
    "even_heads",
    "find_attention_parts",
    "find_attention_writers",
    "find_mlp_parts",
    "group_heads",
    "weight_of",
]

_MLP_NAMES = ("mlp", "feed_forward", "ffn", "fc", "ff", "dense")
_ATTENTION_NAMES = ("attn", "attention")


def is_linear(module):
    """Linear, or GPT-2's Conv1D, which stores its weight transposed."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, (torch.nn.Linear, Conv1D))


def is_transposed(module):
    """Whether the weight is stored as (inputs, outputs)."""
    return not isinstance(module, torch.nn.Linear)


def weight_of(module):
    """Weight of a linear as ``(n_outputs, n_inputs)``, a view."""
    return module.weight.T if is_transposed(module) else module.weight


def features(module):
    """``(n_inputs, n_outputs)`` of a linear."""
    shape = weight_of(module).shape
    return shape[1], shape[0]


@dataclass(frozen=True)
class MLPPart:
    """The MLP of one layer.

    Attributes
    ----------
    layer : int
    name : str
        Dotted path of the linear that writes back to the residual stream.
    owner : torch.nn.Module
        The module that holds the linears.
    down : torch.nn.Module
        The linear that writes back; its inputs are the neurons.
    readers : tuple of (name, module, n_parts)
        The linears whose outputs make the neurons: gate and up, one plain layer, or both fused (``n_parts`` 2).
    size : int
        Neurons.
    """

    layer: int
    name: str
    owner: object
    down: object
    readers: tuple
    size: int

    def now(self):
        """The same MLP with the size that it has now, after slicing."""
        return replace(self, size=features(self.down)[0])

    @property
    def unit_cost(self):
        """Parameters that go with one neuron."""
        cost = features(self.down)[1]
        for _, module, parts in self.readers:
            cost += parts * (features(module)[0] + (module.bias is not None))
        return cost


@dataclass(frozen=True)
class AttentionPart:
    """The attention of one layer.

    Attributes
    ----------
    layer : int
    name : str
        Dotted path of the output projection.
    owner : torch.nn.Module
    out : torch.nn.Module
        The output projection; its inputs are the heads, one after the other.
    readers : dict
        ``{"q": module, "k": module, "v": module}``, or ``{"qkv": module}`` when fused.
    n_heads, n_kv_heads, head_dim : int
    """

    layer: int
    name: str
    owner: object
    out: object
    readers: dict
    n_heads: int
    n_kv_heads: int
    head_dim: int

    @property
    def group(self):
        """Query heads that share one key/value head."""
        return self.n_heads // self.n_kv_heads

    @property
    def unit_cost(self):
        """Parameters that go with one key/value head and its query heads."""
        width = features(self.out)[1]
        rows = (self.group + 2) * self.head_dim
        reader = next(iter(self.readers.values()))
        return rows * (features(reader)[0] + (reader.bias is not None)) + self.group * self.head_dim * width


def check_prunable(model):
    """Refuse what cannot be sliced, with the reason.

    Raises
    ------
    UnsupportedArchitectureError
        For mixtures of experts, quantised weights and offloaded (meta) weights.
    """
    for name, module in model.named_modules():
        label = f"{name} {type(module).__name__}".lower()
        if "expert" in label or "sparsemoe" in label or "moeblock" in label:
            raise UnsupportedArchitectureError(
                f"{type(model).__name__} is a mixture of experts ({name}: {type(module).__name__}). Its experts share "
                "tensors that pruning by neuron does not slice; prune a dense model."
            )
    meta = next((n for n, p in model.named_parameters() if p.device.type == "meta"), None)
    if meta is not None:
        raise UnsupportedArchitectureError(
            f"The weights of {meta} are offloaded (device 'meta'). Load the model whole on one device before pruning."
        )
    quantised = next((n for n, p in model.named_parameters() if not p.dtype.is_floating_point), None)
    if getattr(model, "is_quantized", False) or quantised is not None:
        where = f" ({quantised})" if quantised else ""
        raise UnsupportedArchitectureError(
            f"{type(model).__name__} is quantised{where}; its packed weights cannot be sliced. Load it dequantised "
            "(dtype='float32' or 'bfloat16'), prune, and quantise afterwards."
        )


def find_mlp_parts(model):
    """The MLP of every layer.

    Returns
    -------
    list of MLPPart
        In the order of the layers.

    Raises
    ------
    UnsupportedArchitectureError
        If an MLP cannot be found with certainty; the message names what was seen.
    """
    check_prunable(model)
    path, blocks = find_decoder_layers(model)
    width = model.config.get_text_config().hidden_size
    return [_mlp_of(block, i, f"{path}.{i}", width) for i, block in enumerate(blocks)]


def _mlp_of(block, layer, path, width):
    writers = [
        name
        for name, module in block.named_modules()
        if is_linear(module)
        and not any(part in name.lower() for part in _ATTENTION_NAMES)
        and features(module)[1] == width
    ]
    if not writers:
        raise UnsupportedArchitectureError(f"No MLP was found in {path} ({type(block).__name__}).")
    down_name = writers[-1]
    owner_name = down_name.rpartition(".")[0]
    owner, down = block.get_submodule(owner_name), block.get_submodule(down_name)
    size = features(down)[0]
    readers = []
    for name, module in owner.named_children():
        if module is down or any(part in name.lower() for part in _ATTENTION_NAMES):
            continue
        if is_linear(module) and features(module)[0] == width and features(module)[1] in (size, 2 * size):
            readers.append((name, module, features(module)[1] // size))
        elif not is_linear(module) and owner is not block and any(True for _ in module.parameters()):
            raise UnsupportedArchitectureError(
                f"{path}.{owner_name} holds {name} ({type(module).__name__}), whose parameters llmbrain does "
                f"not know how "
                "to slice together with the neurons."
            )
    if not readers or sum(parts for _, _, parts in readers) > 2:
        seen = ", ".join(f"{n} ({type(m).__name__})" for n, m in owner.named_children())
        raise UnsupportedArchitectureError(f"The MLP of {path} was not understood; it has {seen}.")
    return MLPPart(layer, f"{path}.{down_name}", owner, down, tuple(readers), size)


def find_attention_parts(model):
    """The attention of every layer, for models whose projections are separate or fused as query, key, value.

    Returns
    -------
    list of AttentionPart

    Raises
    ------
    UnsupportedArchitectureError
        For projections that are laid out in another way.
    """
    check_prunable(model)
    path, blocks = find_decoder_layers(model)
    return [_attention_of(block, i, f"{path}.{i}", model.config.get_text_config()) for i, block in enumerate(blocks)]


def find_attention_writers(model):
    """The output projection of the attention of every layer, which can be refitted wherever heads lie.

    Returns
    -------
    list of AttentionPart or None
        Without readers and counts of heads; None for a layer where no such linear is found.
    """
    path, blocks = find_decoder_layers(model)
    found = []
    for i, block in enumerate(blocks):
        name, owner, out = next(_writers(block), (None, None, None))
        found.append(owner and AttentionPart(i, f"{path}.{i}.{name}.{out}", owner, getattr(owner, out), {}, 0, 0, 0))
    return found


def _writers(block):
    """Modules of a layer that are called attention and hold an output projection, with its name."""
    for name, owner in block.named_modules():
        children = dict(owner.named_children())
        out = next((n for n in ("o_proj", "c_proj", "out_proj", "dense") if is_linear(children.get(n))), None)
        if out is not None and any(part in name.lower() for part in _ATTENTION_NAMES):
            yield name, owner, out


def _attention_of(block, layer, path, config):
    for name, owner, out in _writers(block):
        children = dict(owner.named_children())
        head_dim = getattr(owner, "head_dim", None) or config.hidden_size // config.num_attention_heads
        n_heads = features(children[out])[0] // head_dim
        if all(is_linear(children.get(f"{x}_proj")) for x in "qkv"):
            readers = {x: children[f"{x}_proj"] for x in "qkv"}
            n_kv = features(readers["k"])[1] // head_dim
        else:
            fused = children.get("c_attn")  # others (Phi-3) cut by the head counts of the config, not of the layer
            if not is_linear(fused) or not hasattr(owner, "split_size"):
                break
            readers = {"qkv": fused}
            n_kv = (features(fused)[1] // head_dim - n_heads) // 2
        whole = features(next(iter(readers.values())))[1]
        expected = (n_heads if len(readers) == 3 else n_heads + 2 * n_kv) * head_dim
        if (
            n_kv < 1
            or n_heads % n_kv
            or whole != expected
            or hasattr(owner, "q_norm")
            and _norm_is_wide(owner, head_dim)
        ):
            break
        return AttentionPart(layer, f"{path}.{name}.{out}", owner, children[out], readers, n_heads, n_kv, head_dim)
    raise UnsupportedArchitectureError(
        f"Heads cannot be taken out of {path} ({type(block).__name__}): its query, key and value projections "
        f"are laid out in "
        "a way that llmbrain does not know. Prune its MLP neurons (heads=False)."
    )


def _norm_is_wide(owner, head_dim):
    """A norm over all heads together (OLMo-2) changes when heads go; one per head dimension (Qwen3) does not."""
    weight = getattr(owner.q_norm, "weight", None)
    return weight is None or weight.numel() != head_dim


def group_heads(kept_groups, n_heads, n_kv_heads):
    """Query heads that belong to the kept key/value heads.

    Examples
    --------
    >>> group_heads([0, 2], 9, 3).tolist()
    [0, 1, 2, 6, 7, 8]
    """
    if n_heads % n_kv_heads:
        raise ParameterError(f"{n_heads} query heads cannot share {n_kv_heads} key/value heads evenly.")
    group = n_heads // n_kv_heads
    kept = torch.as_tensor(sorted({int(i) for i in kept_groups}), dtype=torch.long)
    if len(kept) == 0 or int(kept.min()) < 0 or int(kept.max()) >= n_kv_heads:
        raise ParameterError(f"Kept key/value heads must be some of 0 to {n_kv_heads - 1}; got {kept.tolist()}.")
    return (kept[:, None] * group + torch.arange(group)[None, :]).reshape(-1)


def even_heads(kept_heads, n_heads, n_kv_heads):
    """Check single query heads: every key/value head that stays must keep equally many of its own.

    The model pairs query head ``i`` with key/value head ``i // group`` by position alone: after an uneven choice the
    survivors would attend to another head's keys, without any error.

    Parameters
    ----------
    kept_heads : sequence of int
    n_heads, n_kv_heads : int

    Returns
    -------
    heads : torch.Tensor of int
        Sorted query heads.
    groups : torch.Tensor of int
        Key/value heads that are still used.

    Raises
    ------
    ParameterError
        For an uneven choice.

    Examples
    --------
    >>> heads, groups = even_heads([1, 0, 4], 6, 3)
    Traceback (most recent call last):
        ...
    llmbrain.exceptions.ParameterError: Query heads [0, 1, 4] leave [2, 0, 1] heads to the key/value heads; ...
    >>> [t.tolist() for t in even_heads([1, 4], 6, 3)]
    [[1, 4], [0, 2]]
    """
    group = n_heads // n_kv_heads
    heads = torch.as_tensor(sorted({int(i) for i in kept_heads}), dtype=torch.long)
    if len(heads) == 0 or int(heads.min()) < 0 or int(heads.max()) >= n_heads:
        raise ParameterError(f"Kept heads must be some of 0 to {n_heads - 1}; got {heads.tolist()}.")
    counts = torch.bincount(heads // group, minlength=n_kv_heads)
    used = counts[counts > 0]
    if int(used.min()) != int(used.max()):
        raise ParameterError(
            f"Query heads {heads.tolist()} leave {counts.tolist()} heads to the key/value heads; keep whole "
            f"groups, or the "
            "same number in each group that stays."
        )
    return heads, counts.nonzero()[:, 0]

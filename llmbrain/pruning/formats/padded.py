"""Folders that any loader opens: narrow layers are padded with zeros to the width of the widest."""

import copy

import torch

from ...exceptions import ParameterError, UnsupportedArchitectureError
from ...models.linears import features, weight_of
from ...models.parts import modules_of
from ...models.surgery import attention_writers, prunable_mlps, set_head_counts, set_linear, set_width
from ..compensation import COMPENSATIONS
from .base import FORMATS
from .hetero import attention_parts, name_in_config, plain_config, save_weights, stock_class, width_in_config

STOCK_LOADING = """```python
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained("this folder")
```"""


def check_biases(model, recipe):
    """Refuse a recipe whose compensation makes biases for which the model has no place."""
    if not COMPENSATIONS[recipe.compensation].bias:
        return
    linears = [("mlp_bias", part.writer) for part in prunable_mlps(model)]
    if recipe.options.refit_attention:
        linears += [("attention_bias", part.writer) for part in attention_writers(model) if part is not None]
    for switch, linear in linears:
        if linear.bias is None and getattr(model.config.get_text_config(), switch, None) is None:
            raise ParameterError(
                f"{type(model).__name__} has no place for the biases that compensation={recipe.compensation!r} makes. "
                "Save with format='hetero', or prune with compensation='ridge', which makes none."
            )


@FORMATS.register(
    "padded",
    loading="Narrow layers are padded with zeros to the width of the widest. Any tool that opens the base model opens "
    f"this one, with the same logits, but only the width of the widest layer is saved.\n\n{STOCK_LOADING}",
    check=check_biases,
)
def save_padded(model, tokenizer, folder):
    """Narrow layers are padded with zeros to the widest, which changes no logit; loads anywhere."""
    base = stock_class(model)
    padded = copy.deepcopy(model)
    config = plain_config(padded.config)
    padded.config = config
    mlps, attentions = prunable_mlps(padded), attention_parts(padded)
    width = max(p.size for p in mlps)
    name = width_in_config(padded)
    if name is None:
        raise UnsupportedArchitectureError(
            f"No entry of the config of {type(model).__name__} sets the width of its MLPs. Save with format='hetero'."
        )
    setattr(config, name, width)
    for p in mlps:
        _pad_mlp(p, width)
    if attentions:
        _pad_attentions(attentions, config)
    _allow_biases(padded, config, mlps, attentions)
    config.architectures = [base.__name__]
    _check_stock(base, config, padded)
    save_weights(padded, config, folder)


def _grow(weight, n_outputs=None, n_inputs=None):
    """Append rows or columns of zeros to a weight."""
    new = weight.new_zeros(n_outputs or weight.shape[0], n_inputs or weight.shape[1])
    new[: weight.shape[0], : weight.shape[1]] = weight
    return new


@torch.no_grad()
def _pad_mlp(part, width):
    set_linear(part.writer, _grow(weight_of(part.writer), n_inputs=width))
    for module, readers in modules_of(part.readers):
        blocks = weight_of(module).chunk(len(readers))
        bias = None
        if module.bias is not None:
            bias = torch.cat(
                [torch.nn.functional.pad(b, (0, width - part.size)) for b in module.bias.chunk(len(readers))]
            )
        set_linear(module, torch.cat([_grow(b, n_outputs=width) for b in blocks]), bias)
    set_width(part.owner, width)


@torch.no_grad()
def _pad_attentions(parts, config):
    """Add key/value groups of zeros: zero values and zero output columns write nothing."""
    groups = {p.group for p in parts}
    if len({(p.n_heads, p.n_kv_heads) for p in parts}) == 1:
        n_heads, n_kv = parts[0].n_heads, parts[0].n_kv_heads
    elif len(groups) > 1 or len(parts[0].linears) < 4:
        raise ParameterError(
            "Layers with different numbers of heads per group cannot be padded. Save with format='hetero'."
        )
    else:
        n_kv = max(p.n_kv_heads for p in parts)
        n_heads = n_kv * groups.pop()
        for p in parts:
            for reader in p.readers:
                module, rows = reader.module, (n_heads if reader.size == p.size else n_kv) * p.head_dim
                bias = (
                    None if module.bias is None else torch.nn.functional.pad(module.bias, (0, rows - len(module.bias)))
                )
                set_linear(module, _grow(weight_of(module), n_outputs=rows), bias)
            set_linear(p.writer, _grow(weight_of(p.writer), n_inputs=n_heads * p.head_dim))
            set_head_counts(p.owner, n_heads, n_kv, p.head_dim)
    for standard, value in (("num_attention_heads", n_heads), ("num_key_value_heads", n_kv)):
        name = name_in_config(config, standard)
        if name and getattr(config, name) != value:
            if not hasattr(config, "head_dim"):
                raise ParameterError(
                    f"{type(config).__name__} derives the size of a head from their number. Save with format='hetero'."
                )
            setattr(config, name, value)
            config.head_dim = parts[0].head_dim


def _allow_biases(model, config, mlps, attentions):
    """Switch on the biases that compensation made, if the stock config has a switch; other layers get zeros."""
    for switch, parts in (("mlp_bias", mlps), ("attention_bias", attentions)):
        if not any(p.writer.bias is not None for p in parts) or getattr(config, switch, None) is not False:
            continue
        setattr(config, switch, True)
        for p in parts:
            for module in p.linears:
                if module.bias is None:
                    zeros = torch.zeros(features(module)[1], dtype=module.weight.dtype, device=module.weight.device)
                    set_linear(module, weight_of(module), zeros)


def _check_stock(base, config, model):
    """Check that the stock class, built from this config, has exactly these tensors."""
    with torch.device("meta"):
        stock = base(copy.deepcopy(config))
    wanted = {n: tuple(p.shape) for n, p in stock.named_parameters()}
    have = {n: tuple(p.shape) for n, p in model.named_parameters()}
    extra = [n for n in have if n not in wanted]
    if any(n.endswith(".bias") for n in extra):
        raise ParameterError(
            f"{base.__name__} has no place for the biases that compensation made ({extra[0]}). Save with "
            "format='hetero', or prune with compensation='ridge', which makes none."
        )
    if have != wanted:
        odd = next(n for n in {**have, **wanted} if have.get(n) != wanted.get(n))
        raise UnsupportedArchitectureError(
            f"{base.__name__} would not load these weights ({odd}: {have.get(odd)}, expected {wanted.get(odd)}). Save "
            "with format='hetero'."
        )

"""Folders that load: per-layer widths, one width, or zero-padded; never half written."""

import copy
import inspect
from pathlib import Path

import numpy as np
import torch

from ..exceptions import ModelNotFoundError, ParameterError, UnsupportedArchitectureError
from ..files import atomic_dir, read_json, write_json, write_text
from .card import model_card
from .surgery import set_head_counts, set_linear
from .units import features, find_attention_parts, find_attention_writers, find_mlp_parts, weight_of

__all__ = ["FORMATS", "check_format", "load_pruned", "save_pruned"]

FORMATS = ("hetero", "uniform", "padded", "gguf")
MARKER = "llmbrain_pruning.json"
SUBNETWORK = "llmbrain_subnetwork.safetensors"
_CODE = "modeling_llmbrain_pruned"
_WIDTHS = ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size")
_HEADS = ("num_attention_heads", "n_head", "num_heads")
_KV_HEADS = ("num_key_value_heads", "num_kv_heads")


def save_pruned(pruned, folder, *, format="hetero", tokenizer=None, results=None):
    """Write a pruned model into a folder; an old folder stays until the new one is complete.

    Parameters
    ----------
    pruned : PrunedModel
    folder : path-like
    format : {"hetero", "uniform", "padded", "gguf"}
        ``hetero`` keeps the width of every layer: ``llmbrain.load_model`` opens it, and transformers with
        ``trust_remote_code=True``. ``uniform`` needs equal widths and loads anywhere. ``padded`` fills up to the widest
        layer with zeros, which changes no logit, and loads anywhere. ``gguf`` writes one file for llama.cpp.
    tokenizer : transformers tokenizer, optional
    results : pandas.DataFrame, optional
        Measured table for the model card.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    ParameterError
        For an unknown format, or a model that the format cannot hold; the message says which can.
    """
    if format not in FORMATS:
        raise ParameterError(f"Unknown format {format!r}; choose from {', '.join(FORMATS)}.")
    tokenizer = tokenizer or pruned.tokenizer
    with atomic_dir(folder) as part:
        if format == "gguf":
            from .gguf_writer import write_gguf

            write_gguf(pruned.model, tokenizer, part / "model.gguf")
        else:
            {"hetero": _save_hetero, "uniform": _save_uniform, "padded": _save_padded}[format](pruned.model, part)
            if tokenizer is not None:
                tokenizer.save_pretrained(part)
        _save_provenance(pruned, part, format)
        write_text(part / "README.md", model_card(pruned, format, results))
    return Path(folder)


def check_format(model, format, *, allocation, compensation, options=None, **_):
    """Refuse a format that will not hold the result, before the work of pruning.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Dense.
    format : str
    allocation, compensation, options
        What it will be pruned with, see :func:`llmbrain.pruning.options.choose_recipe`.

    Raises
    ------
    ParameterError, UnsupportedArchitectureError
    """
    if format not in FORMATS:
        raise ParameterError(f"Unknown format {format!r}; choose from {', '.join(FORMATS)}.")
    if format == "gguf":
        from .gguf_writer import check_writable

        check_writable(model)
    if format == "uniform" and not (isinstance(allocation, str) and allocation == "uniform"):
        raise ParameterError(
            "format='uniform' needs one width in all layers: prune with allocation='uniform', or save with "
            "format='padded' or 'hetero'."
        )
    if format in ("uniform", "padded") and compensation in ("bias", "affine"):
        linears = [("mlp_bias", part.down) for part in find_mlp_parts(model)]
        if (options or {}).get("refit_attention"):
            linears += [("attention_bias", part.out) for part in find_attention_writers(model) if part is not None]
        for switch, linear in linears:
            if linear.bias is None and getattr(model.config.get_text_config(), switch, None) is None:
                raise ParameterError(
                    f"{type(model).__name__} has no place for the biases that compensation={compensation!r} makes. "
                    "Save with format='hetero', or prune with compensation='ridge', which makes none."
                )


def load_pruned(folder, *, dtype="float32", device="cpu"):
    """Open a folder written by :func:`save_pruned`, with the account of how it was made.

    Parameters
    ----------
    folder : path-like
    dtype, device : str

    Returns
    -------
    PrunedModel

    Raises
    ------
    ModelNotFoundError
        If the folder holds no pruned model of llmbrain.
    """
    from safetensors.numpy import load_file

    from ..geometry import NeuronGeometry
    from ..models.loading import load_model
    from .api import PrunedModel

    folder = Path(folder)
    if not (folder / MARKER).is_file():
        raise ModelNotFoundError(f"{folder} holds no pruned model of llmbrain ({MARKER} is missing).")
    summary = read_json(folder / MARKER)
    arrays = load_file(folder / SUBNETWORK)
    model, tokenizer = load_model(folder, dtype=dtype, device=device)
    geometry = NeuronGeometry.from_dict(summary["geometry"])
    n_layers = len(geometry.sizes)
    kept = [arrays[f"layers.{i}.kept"] for i in range(n_layers)]
    scores = [arrays[f"layers.{i}.score"] for i in range(n_layers)] if "layers.0.score" in arrays else None
    import pandas as pd

    table = pd.DataFrame({k: [np.nan if v is None else v for v in c] for k, c in summary["layers"].items()})
    return PrunedModel(model, tokenizer, kept, geometry, table, scores, summary)


def _save_provenance(pruned, part, format):
    from safetensors.numpy import save_file

    arrays = {f"layers.{i}.kept": np.asarray(k, dtype=np.int64) for i, k in enumerate(pruned.kept)}
    if pruned.scores is not None:
        arrays.update({f"layers.{i}.score": np.asarray(s, dtype=np.float64) for i, s in enumerate(pruned.scores)})
    save_file(arrays, part / SUBNETWORK)
    layers = {
        k: [None if isinstance(v, float) and np.isnan(v) else v for v in column]
        for k, column in pruned.summary["layers"].items()
    }
    write_json(
        part / MARKER, {**pruned.summary, "layers": layers, "format": format, "geometry": pruned.geometry.to_dict()}
    )


# -- layout ---------------------------------------------------------------------------------------------------------
def layout_of(model):
    """Shapes of the linears that pruning may have changed, and the attributes that go with them.

    Returns
    -------
    linears, attributes : dict
        As :mod:`llmbrain.models.heterogeneous` reads them.
    """
    paths = {id(module): name for name, module in model.named_modules()}
    linears, attributes = {}, {}

    def note(module):
        linears[paths[id(module)]] = [*features(module), module.bias is not None]

    for part in find_mlp_parts(model):
        for module in (part.down, *(m for _, m, _ in part.readers)):
            note(module)
        attributes[paths[id(part.owner)]] = _numbers(part.owner, ("intermediate_size", "ffn_dim"))
    for part in _attention_parts(model):
        for module in (part.out, *part.readers.values()):
            note(module)
        names = ("num_heads", "num_attention_heads", "n_head", "num_key_value_heads", "num_kv_heads",
                 "num_key_value_groups", "split_size")  # fmt: skip
        attributes[paths[id(part.owner)]] = _numbers(part.owner, names)
    return linears, {path: values for path, values in attributes.items() if values}


def _numbers(module, names):
    return {name: vars(module)[name] for name in names if isinstance(vars(module).get(name), int)}


def _attention_parts(model):
    """Attention that llmbrain can cut; none where it cannot, for then it has not been cut."""
    try:
        return find_attention_parts(model)
    except UnsupportedArchitectureError:
        return []


def _first_name(config, names):
    return next((n for n in names if n in config.to_dict() or hasattr(config, n)), None)


def _width_of_config(model):
    """Name of the width in the config, with a whole number behind it."""
    config = model.config.get_text_config()
    name = _first_name(config, _WIDTHS)
    if name is None:
        raise UnsupportedArchitectureError(
            f"The config of {type(model).__name__} names no MLP width; save it with format='hetero'."
        )
    return name


# -- hetero ---------------------------------------------------------------------------------------------------------
def _save_hetero(model, part):
    base = _stock_class(model)
    config = copy.deepcopy(model.config)
    linears, attributes = layout_of(model)
    config.llmbrain_linears, config.llmbrain_attributes = linears, attributes
    _write_per_layer_config(model, config)
    config.architectures = [f"Pruned{base.__name__}"]
    config.auto_map = {"AutoModelForCausalLM": f"{_CODE}.Pruned{base.__name__}"}
    _save_weights(model, config, part)
    from ..models import heterogeneous

    code = inspect.getsource(heterogeneous)
    write_text(part / f"{_CODE}.py", f'{code}\n\nPruned{base.__name__} = heterogeneous_class("{base.__name__}")\n')


def _stock_class(model):
    import transformers

    for cls in type(model).__mro__:
        if getattr(transformers, cls.__name__, None) is cls:
            return cls
    raise UnsupportedArchitectureError(f"{type(model).__name__} is no class of transformers; it cannot be saved.")


def _write_per_layer_config(model, config):
    """Widths and head counts in transformers' own words, for tools that will read them (needs 5.14)."""
    if not hasattr(type(config), "per_layer_config"):
        return
    width = next((n for n in _WIDTHS if isinstance(getattr(config, n, None), int)), None)
    heads = next((n for n in _HEADS if isinstance(getattr(config, n, None), int)), None)
    kv = next((n for n in _KV_HEADS if isinstance(getattr(config, n, None), int)), None)
    layers = {}
    for part in find_mlp_parts(model):
        if width:
            layers.setdefault(part.layer, {})[width] = part.size
    for part in _attention_parts(model):
        if heads:
            layers.setdefault(part.layer, {})[heads] = part.n_heads
        if kv:
            layers.setdefault(part.layer, {})[kv] = part.n_kv_heads
    config.allow_global_per_layer_attribute_access = True
    if hasattr(config, "head_dim") or kv:
        head_dim = {p.head_dim for p in _attention_parts(model)}
        if len(head_dim) == 1:
            config.head_dim = head_dim.pop()
    config.per_layer_config = layers


def _save_weights(model, config, part):
    """Save with another config, and leave the model as it is."""
    own, architectures = model.config, model.config.architectures
    own_generation = getattr(model, "generation_config", None)
    try:
        model.config = config
        model.save_pretrained(part, safe_serialization=True) if _takes_flag(model) else model.save_pretrained(part)
    finally:
        model.config, model.config.architectures = own, architectures
        if own_generation is not None:
            model.generation_config = own_generation
    # save_pretrained puts the class of the object there; loading wants the class that knows the layout.
    saved = read_json(part / "config.json")
    saved["architectures"] = config.architectures
    if getattr(config, "auto_map", None):
        saved["auto_map"] = config.auto_map
    write_json(part / "config.json", saved)


def _takes_flag(model):
    return "safe_serialization" in inspect.signature(model.save_pretrained).parameters


# -- stock folders --------------------------------------------------------------------------------------------------
def _save_uniform(model, part):
    widths = sorted({p.size for p in find_mlp_parts(model)})
    heads = {(p.n_heads, p.n_kv_heads) for p in _attention_parts(model)}
    if len(widths) > 1 or len(heads) > 1:
        raise ParameterError(
            f"format='uniform' needs one width in all layers; this model has {widths[0]} to {widths[-1]}. Prune with "
            "allocation='uniform', or save with format='padded' or 'hetero'."
        )
    _save_padded(model, part)


def _save_padded(model, part):
    base = _stock_class(model)
    padded = copy.deepcopy(model)
    config = _plain_config(padded.config)
    padded.config = config
    mlps, attentions = find_mlp_parts(padded), _attention_parts(padded)
    width = max(p.size for p in mlps)
    setattr(config, _width_of_config(padded), width)
    for p in mlps:
        _pad_mlp(p, width)
    if attentions:
        _pad_attentions(attentions, config)
    _allow_biases(padded, config, mlps, attentions)
    config.architectures = [base.__name__]
    _check_stock(base, config, padded)
    _save_weights(padded, config, part)


def _plain_config(config):
    config = copy.deepcopy(config)
    if hasattr(type(config), "per_layer_config"):
        config.per_layer_config = None
    for name in ("llmbrain_linears", "llmbrain_attributes", "auto_map"):
        vars(config).pop(name, None)
    return config


def _grow(weight, n_outputs=None, n_inputs=None):
    """A weight with rows or columns of zeros added at its end."""
    new = weight.new_zeros(n_outputs or weight.shape[0], n_inputs or weight.shape[1])
    new[: weight.shape[0], : weight.shape[1]] = weight
    return new


@torch.no_grad()
def _pad_mlp(part, width):
    set_linear(part.down, _grow(weight_of(part.down), n_inputs=width))
    for _, module, parts in part.readers:
        blocks = weight_of(module).chunk(parts)
        bias = None
        if module.bias is not None:
            bias = torch.cat([torch.nn.functional.pad(b, (0, width - part.size)) for b in module.bias.chunk(parts)])
        set_linear(module, torch.cat([_grow(b, n_outputs=width) for b in blocks]), bias)
    if isinstance(getattr(part.owner, "intermediate_size", None), int):
        part.owner.intermediate_size = width


@torch.no_grad()
def _pad_attentions(parts, config):
    """Add key/value groups of zeros: zero values and zero output columns write nothing."""
    groups = {p.group for p in parts}
    if len({(p.n_heads, p.n_kv_heads) for p in parts}) == 1:
        n_heads, n_kv = parts[0].n_heads, parts[0].n_kv_heads
    elif len(groups) > 1 or "qkv" in parts[0].readers:
        raise ParameterError(
            "Layers with different numbers of heads a group cannot be padded; save with format='hetero'."
        )
    else:
        n_kv = max(p.n_kv_heads for p in parts)
        n_heads = n_kv * groups.pop()
        for p in parts:
            sizes = {"q": n_heads, "k": n_kv, "v": n_kv}
            for name, count in sizes.items():
                module, rows = p.readers[name], count * p.head_dim
                bias = (
                    None if module.bias is None else torch.nn.functional.pad(module.bias, (0, rows - len(module.bias)))
                )
                set_linear(module, _grow(weight_of(module), n_outputs=rows), bias)
            set_linear(p.out, _grow(weight_of(p.out), n_inputs=n_heads * p.head_dim))
            set_head_counts(p.owner, n_heads, n_kv, p.head_dim)
    for names, value in ((_HEADS, n_heads), (_KV_HEADS, n_kv)):
        name = next((n for n in names if isinstance(getattr(config, n, None), int)), None)
        if name and getattr(config, name) != value:
            if not hasattr(config, "head_dim"):
                raise ParameterError(
                    f"{type(config).__name__} derives the size of a head from their number; save with format='hetero'."
                )
            setattr(config, name, value)
            config.head_dim = parts[0].head_dim


def _allow_biases(model, config, mlps, attentions):
    """Switch on biases that compensation made, where the stock config has a switch; the others become zeros."""
    groups = [("mlp_bias", [(p.down, [m for _, m, _ in p.readers]) for p in mlps])]
    groups.append(("attention_bias", [(p.out, list(p.readers.values())) for p in attentions]))
    for switch, linears in groups:
        if not any(out.bias is not None for out, _ in linears) or getattr(config, switch, None) is not False:
            continue
        setattr(config, switch, True)
        for out, readers in linears:
            for module in (out, *readers):
                if module.bias is None:
                    zeros = torch.zeros(features(module)[1], dtype=module.weight.dtype, device=module.weight.device)
                    set_linear(module, weight_of(module), zeros)


def _check_stock(base, config, model):
    """Whether the stock class, built from this config, has exactly these tensors."""
    with torch.device("meta"):
        stock = base(copy.deepcopy(config))
    wanted = {n: tuple(p.shape) for n, p in stock.named_parameters()}
    have = {n: tuple(p.shape) for n, p in model.named_parameters()}
    extra = [n for n in have if n not in wanted]
    if any(n.endswith(".bias") for n in extra):
        raise ParameterError(
            f"{base.__name__} has no place for the biases that compensation made ({extra[0]}). Save with "
            f"format='hetero', or "
            "prune with compensation='ridge', which makes none."
        )
    if have != wanted:
        odd = next(n for n in {**have, **wanted} if have.get(n) != wanted.get(n))
        raise UnsupportedArchitectureError(
            f"{base.__name__} would not load these weights ({odd}: {have.get(odd)}, wanted "
            f"{wanted.get(odd)}). Save with "
            "format='hetero'."
        )

"""What a config and a folder must say about a model whose layers differ, and the weights beside it."""

import copy
import inspect

from ...exceptions import UnsupportedArchitectureError
from ...files import read_json, write_json, write_text
from ...models.anatomy import features
from ...models.surgery import HEAD_COUNTS, WIDTH_COUNTS, prunable_attentions, prunable_mlps

__all__ = [
    "HEADS",
    "KV_HEADS",
    "attention_parts",
    "layout_of",
    "save_hetero",
    "save_weights",
    "stock_class",
    "width_of_config",
]

HEADS = ("num_attention_heads", "n_head", "num_heads")
KV_HEADS = ("num_key_value_heads", "num_kv_heads")
_WIDTHS = ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size")
_CODE = "modeling_llmbrain_pruned"


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

    for part in prunable_mlps(model):
        for module in part.linears:
            note(module)
        attributes[paths[id(part.owner)]] = _numbers(part.owner, WIDTH_COUNTS)
    for part in attention_parts(model):
        for module in part.linears:
            note(module)
        attributes[paths[id(part.owner)]] = _numbers(part.owner, HEAD_COUNTS)
    return linears, {path: values for path, values in attributes.items() if values}


def _numbers(module, names):
    return {name: vars(module)[name] for name in names if isinstance(vars(module).get(name), int)}


def attention_parts(model):
    """Attention that llmbrain can cut; none where it cannot, for then it has not been cut."""
    try:
        return prunable_attentions(model)
    except UnsupportedArchitectureError:
        return []


def _first_name(config, names):
    return next((n for n in names if n in config.to_dict() or hasattr(config, n)), None)


def width_of_config(model):
    """Name of the width in the config, with a whole number behind it."""
    config = model.config.get_text_config()
    name = _first_name(config, _WIDTHS)
    if name is None:
        raise UnsupportedArchitectureError(
            f"The config of {type(model).__name__} names no MLP width; save it with format='hetero'."
        )
    return name


def save_hetero(model, part):
    """Write a model whose layers differ in width, with the code by which transformers opens it, into a folder."""
    base = stock_class(model)
    config = copy.deepcopy(model.config)
    linears, attributes = layout_of(model)
    config.llmbrain_linears, config.llmbrain_attributes = linears, attributes
    _write_per_layer_config(model, config)
    config.architectures = [f"Pruned{base.__name__}"]
    config.auto_map = {"AutoModelForCausalLM": f"{_CODE}.Pruned{base.__name__}"}
    save_weights(model, config, part)
    from ...models import heterogeneous

    code = inspect.getsource(heterogeneous)
    write_text(part / f"{_CODE}.py", f'{code}\n\nPruned{base.__name__} = heterogeneous_class("{base.__name__}")\n')


def stock_class(model):
    """The class of transformers that a model is, or is made from."""
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
    heads = next((n for n in HEADS if isinstance(getattr(config, n, None), int)), None)
    kv = next((n for n in KV_HEADS if isinstance(getattr(config, n, None), int)), None)
    layers = {}
    for part in prunable_mlps(model):
        if width:
            layers.setdefault(part.layer, {})[width] = part.size
    for part in attention_parts(model):
        if heads:
            layers.setdefault(part.layer, {})[heads] = part.n_heads
        if kv:
            layers.setdefault(part.layer, {})[kv] = part.n_kv_heads
    config.allow_global_per_layer_attribute_access = True
    if hasattr(config, "head_dim") or kv:
        head_dim = {p.head_dim for p in attention_parts(model)}
        if len(head_dim) == 1:
            config.head_dim = head_dim.pop()
    config.per_layer_config = layers


def save_weights(model, config, part):
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

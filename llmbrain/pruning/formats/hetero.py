"""Folders in which layers differ in width, with the code that transformers needs to open them."""

import copy
import inspect

import torch

from ...exceptions import UnsupportedArchitectureError
from ...files import read_json, write_json, write_text
from ...models.anatomy import anatomy_of
from ...models.hooks import restoring
from ...models.linears import features
from ...models.surgery import HEAD_COUNTS, WIDTH_COUNTS, attention_writers, prunable_attentions, prunable_mlps
from .base import FORMATS

_CODE = "modeling_llmbrain_pruned"
_LOADING = """The layers differ in width.

```python
import llmbrain as lb
model, tokenizer = lb.load_model("this folder")            # runs no code from the folder
```
```python
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained("this folder", trust_remote_code=True)
```
Without `trust_remote_code`, transformers raises an error about the shapes of the linears. Never load with
`ignore_mismatched_sizes`, which would fill them with random numbers."""


def layout_of(model):
    """Shapes of the linears that pruning may have changed, and the attributes that go with them.

    Two dictionaries, as :mod:`llmbrain.models.heterogeneous` reads them.
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
    for part in filter(None, attention_writers(model)):  # refits give biases also to those that cannot be cut
        note(part.writer)
    return linears, {path: values for path, values in attributes.items() if values}


def _numbers(module, names):
    return {name: vars(module)[name] for name in names if isinstance(vars(module).get(name), int)}


def attention_parts(model):
    """Attention of every layer; an empty list if llmbrain cannot cut it, because then it has not been cut."""
    try:
        return prunable_attentions(model)
    except UnsupportedArchitectureError:
        return []


def name_in_config(config, standard):
    """Name of a standard entry in a config, such as ``n_head`` for ``num_attention_heads``; None if it has none."""
    name = config.attribute_map.get(standard, standard)
    return name if isinstance(getattr(config, name, None), int) else None


def plain_config(config):
    """Copy a config without the entries that describe single layers."""
    config = copy.deepcopy(config)
    if hasattr(type(config), "per_layer_config"):
        config.per_layer_config = None
    for name in ("llmbrain_linears", "llmbrain_attributes", "auto_map"):
        vars(config).pop(name, None)
    return config


def width_in_config(model):
    """Name of the config entry that sets the width of all MLPs; None if there is none.

    An entry is accepted if a model built with another value has MLPs of that width.
    """
    widest = max(part.size for part in prunable_mlps(model))
    entries = model.config.get_text_config().to_dict().items()
    numbers = {name: value for name, value in entries if type(value) is int and value >= widest}
    unset = [name for name, value in entries if value is None]
    names = [*sorted(numbers, key=numbers.get), *unset]
    return next((name for name in names if _sets_width(model, name, numbers.get(name, widest) + 8)), None)


def _sets_width(model, name, width):
    config = plain_config(model.config)
    try:
        setattr(config.get_text_config(), name, width)
        with torch.device("meta"):
            blocks = anatomy_of(stock_class(model)(config)).blocks
        return all(block.mlp.size == width for block in blocks)
    except Exception:  # an entry with another meaning may not accept this value
        return False


@FORMATS.register("hetero", loading=_LOADING)
def save_hetero(model, tokenizer, folder):
    """Each layer has its own width; opens with ``llmbrain.load_model``, or with transformers and trust_remote_code."""
    base = stock_class(model)
    config = copy.deepcopy(model.config)
    linears, attributes = layout_of(model)
    config.llmbrain_linears, config.llmbrain_attributes = linears, attributes
    _write_per_layer_config(model, config)
    config.architectures = [f"Pruned{base.__name__}"]
    config.auto_map = {"AutoModelForCausalLM": f"{_CODE}.Pruned{base.__name__}"}
    save_weights(model, config, folder, save_original_format=False)  # renaming knows stock classes only: GPT-NeoX
    from ...models import heterogeneous

    code = inspect.getsource(heterogeneous)
    write_text(folder / f"{_CODE}.py", f'{code}\n\nPruned{base.__name__} = heterogeneous_class("{base.__name__}")\n')


def stock_class(model):
    """The class of transformers that a model has or derives from."""
    import transformers

    for cls in type(model).__mro__:
        if getattr(transformers, cls.__name__, None) is cls:
            return cls
    raise UnsupportedArchitectureError(f"{type(model).__name__} is not a class of transformers and cannot be saved.")


def _write_per_layer_config(model, config):
    """Write widths and head counts in transformers' own fields (needs 5.14)."""
    if not hasattr(type(config), "per_layer_config"):
        return
    width = width_in_config(model)
    heads, kv = (name_in_config(config, name) for name in ("num_attention_heads", "num_key_value_heads"))
    layers = {}
    for part in prunable_mlps(model):
        if width and isinstance(getattr(config, width, None), int):
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


def save_weights(model, config, folder, **options):
    """Save with another config, without changing the model; options go to ``save_pretrained``."""
    own, architectures = model.config, model.config.architectures
    own_generation = getattr(model, "generation_config", None)

    def restore():
        model.config, own.architectures = own, architectures
        if own_generation is not None:
            model.generation_config = own_generation

    with restoring(restore):
        model.config = config
        model.save_pretrained(folder, **_safe_flag(model), **options)
    # save_pretrained writes the class of the object; loading needs the class that knows the layout.
    saved = read_json(folder / "config.json")
    saved["architectures"] = config.architectures
    if getattr(config, "auto_map", None):
        saved["auto_map"] = config.auto_map
    write_json(folder / "config.json", saved)


def _safe_flag(model):
    """Ask for safetensors in versions of transformers that write another format by default."""
    takes = "safe_serialization" in inspect.signature(model.save_pretrained).parameters
    return {"safe_serialization": True} if takes else {}

"""Models whose layers differ in width: the stock class of transformers with some of its linears resized.

This file is also copied into every folder that llmbrain saves in the format "hetero", followed by the name of the
class,
so that transformers can open the folder by itself with ``trust_remote_code=True``. It must therefore import nothing but
torch and transformers. The config says what differs:

``llmbrain_linears``
    ``{path of a linear: [inputs, outputs, whether it has a bias]}``
``llmbrain_attributes``
    ``{path of a module: {attribute: value}}``, such as the number of query heads that share a key.
"""

import torch
import transformers
from transformers.pytorch_utils import Conv1D

__all__ = ["heterogeneous_class", "load_heterogeneous", "resize_linears"]


def resize_linears(model, linears, attributes):
    """Give linears of a model, just constructed, the shapes that its config lists.

    Parameters
    ----------
    model : torch.nn.Module
    linears : dict
        ``{path: [n_inputs, n_outputs, has_bias]}``.
    attributes : dict
        ``{path: {name: value}}``.
    """
    for path, (n_inputs, n_outputs, has_bias) in linears.items():
        old = model.get_submodule(path)
        like = {"device": old.weight.device, "dtype": old.weight.dtype}
        if isinstance(old, Conv1D):
            new = (
                Conv1D(n_outputs, n_inputs).to(**like)
                if old.weight.device.type != "meta"
                else Conv1D(n_outputs, n_inputs)
            )
        else:
            new = torch.nn.Linear(n_inputs, n_outputs, bias=has_bias, **like)
        new.train(old.training)
        owner, _, name = path.rpartition(".")
        setattr(model.get_submodule(owner), name, new)
    for path, values in attributes.items():
        for name, value in values.items():
            setattr(model.get_submodule(path), name, value)


def heterogeneous_class(base):
    """Subclass of a stock causal language model that builds what its config lists.

    Parameters
    ----------
    base : type or str
        A class of transformers, or its name.

    Returns
    -------
    type
    """
    base = getattr(transformers, base) if isinstance(base, str) else base

    def __init__(self, config, *args, **kwargs):
        config.allow_global_per_layer_attribute_access = True
        base.__init__(self, config, *args, **kwargs)
        resize_linears(self, config.llmbrain_linears, config.llmbrain_attributes)

    return type(f"Pruned{base.__name__}", (base,), {"__init__": __init__, "__module__": __name__})


def load_heterogeneous(folder, *, dtype="float32"):
    """Open a folder that llmbrain saved; no code out of the folder is run.

    Parameters
    ----------
    folder : path-like
    dtype : str
        Type of the weights; "auto" keeps what the files hold.

    Returns
    -------
    transformers.PreTrainedModel
    """
    config = transformers.AutoConfig.from_pretrained(str(folder))
    if not hasattr(config, "llmbrain_linears"):
        return transformers.AutoModelForCausalLM.from_pretrained(str(folder), config=config, dtype=dtype)
    config.allow_global_per_layer_attribute_access = True
    name = config.architectures[0].removeprefix("Pruned")
    return heterogeneous_class(name).from_pretrained(str(folder), config=config, dtype=dtype)

"""Models whose layers differ in width: the stock class of transformers with some of its linears resized.

llmbrain copies this file into every folder that it saves in the format "hetero", so that transformers can open the
folder with ``trust_remote_code=True``. It must therefore import nothing but torch and transformers. Two entries of the
config describe the differences:

``llmbrain_linears``
    ``{path of a linear: [inputs, outputs, whether it has a bias]}``
``llmbrain_attributes``
    ``{path of a module: {attribute: value}}``, such as the number of query heads that share a key.
"""

import torch
import transformers
from transformers.pytorch_utils import Conv1D


def resize_linears(model, linears, attributes):
    """Resize the linears of a new model to the shapes that its config lists (see the module's description)."""
    for path, (n_inputs, n_outputs, has_bias) in linears.items():
        old = model.get_submodule(path)
        like = {"device": old.weight.device, "dtype": old.weight.dtype}
        if isinstance(old, Conv1D):
            with old.weight.device:
                new = Conv1D(n_outputs, n_inputs).to(old.weight.dtype)
        else:
            new = torch.nn.Linear(n_inputs, n_outputs, bias=has_bias, **like)
        new.train(old.training)
        owner, _, name = path.rpartition(".")
        setattr(model.get_submodule(owner), name, new)
    for path, values in attributes.items():
        for name, value in values.items():
            setattr(model.get_submodule(path), name, value)


def heterogeneous_class(base):
    """Make a subclass of a class of transformers (or of its name) that builds the shapes its config lists."""
    base = getattr(transformers, base) if isinstance(base, str) else base

    def __init__(self, config, *args, **kwargs):
        config.allow_global_per_layer_attribute_access = True
        base.__init__(self, config, *args, **kwargs)
        resize_linears(self, config.llmbrain_linears, config.llmbrain_attributes)

    return type(f"Pruned{base.__name__}", (base,), {"__init__": __init__, "__module__": __name__})


def load_heterogeneous(folder, *, trust_remote_code=False, **options):
    """Open a folder that llmbrain saved. Code in the folder is not run.

    ``trust_remote_code`` concerns folders that llmbrain did not save; other options go to ``from_pretrained``.
    """
    code = {"trust_remote_code": trust_remote_code}
    config = transformers.AutoConfig.from_pretrained(str(folder), **code)
    if not hasattr(config, "llmbrain_linears"):
        return transformers.AutoModelForCausalLM.from_pretrained(str(folder), config=config, **code, **options)
    config.allow_global_per_layer_attribute_access = True
    name = config.architectures[0].removeprefix("Pruned")
    return heterogeneous_class(name).from_pretrained(str(folder), config=config, **options)

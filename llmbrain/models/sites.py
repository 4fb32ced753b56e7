"""Where the neurons of a model are read and written: one site in every layer that has it."""

import re
from dataclasses import dataclass, field

from ..exceptions import ParameterError, UnsupportedArchitectureError
from ..registry import Registry
from .anatomy import anatomy_of
from .linears import features, is_linear
from .wrappers import refuse_wrapped

# A member takes a Block and returns a Site, or None for a block without such a place. ``where`` is the side of the
# module that is read when users name the modules themselves.
SITES = Registry("site", where="output")


@dataclass(frozen=True)
class Site:
    """One layer's place where neurons are read and written.

    Parameters
    ----------
    layer : int
        Number of the layer in the model.
    name : str
        Dotted path of the module.
    module : torch.nn.Module
        The module.
    where : {"input", "output"}
        Side of the module that holds the activations.
    size : int
        Number of neurons.
    start, stop : int
        Where they lie on the last axis (a fused projection holds two sites).
    n_heads : int or None
        Attention heads into which the neurons are grouped.
    """

    layer: int
    name: str
    module: object = field(repr=False)
    where: str
    size: int
    start: int
    stop: int
    n_heads: int | None = None


def _input(block, name, module, size, n_heads=None):
    return Site(block.layer, name, module, "input", size, 0, size, n_heads)


def _output(block, name, module, size, start=0):
    return Site(block.layer, name, module, "output", size, start, start + size)


@SITES.register("mlp", where="input")
def mlp(block):
    """Hidden neurons of the MLP: the input of the linear that writes to the residual stream."""
    found = block.mlp
    return found and _input(block, found.name, found.writer, found.size)


@SITES.register("attention", where="input")
def attention(block):
    """Outputs of the attention heads: the input of the linear that writes to the residual stream."""
    found = block.attention
    if found is None:
        return None
    if not getattr(block.config, "num_attention_heads", None):
        raise UnsupportedArchitectureError(
            f"{type(block.module).__name__} has no attention heads ({block.local(found.name)} writes what it mixes), "
            "so there is no site 'attention'. Name the modules by hand with sites=."
        )
    return _input(block, found.name, found.writer, found.size, found.n_heads)


@SITES.register("mlp_gate")
def mlp_gate(block):
    """Gate of a gated MLP, after its activation function; times ``mlp_up`` it is ``mlp``."""
    found = _gated(block, "mlp_gate")
    return found and _output(block, found.activation_name, found.activation, found.size)


@SITES.register("mlp_up")
def mlp_up(block):
    """The other factor of a gated MLP, which is linear."""
    found = _gated(block, "mlp_up")
    return found and _output(block, found.up.name, found.up.module, found.size, found.up.start)


def _gated(block, site):
    found = block.mlp
    if found is not None and not found.is_gated:
        names = ", ".join(block.local(name) for name in (found.readers[0].name, found.name))
        raise UnsupportedArchitectureError(
            f"The MLP of {type(block.module).__name__} has no gate ({names}), so there is no site '{site}'; use 'mlp'."
        )
    return found


@SITES.register("mlp_output")
def mlp_output(block):
    """What the MLP, or the mixture of experts, writes, before a norm or scaling that may follow."""
    if block.experts is None:
        found = block.mlp
        return found and _output(block, found.name, found.writer, block.width)
    name, module = block.experts
    others = [path for path in block.outside_mixers if not path.startswith(name + ".")]
    if module is block.module or others:
        raise UnsupportedArchitectureError(
            f"{type(block.module).__name__} has linears besides its mixture of experts ({', '.join(others) or name}), "
            "so no single module writes its 'mlp_output'. Use the site 'layer', or name modules with sites=."
        )
    return _output(block, name, module, block.width)


@SITES.register("layer")
def layer(block):
    """Output of the block."""
    return _output(block, block.name, block.module, block.width)


def find_sites(model, site="mlp", sites=None):
    """Find one site in every layer that has it.

    ``mlp`` are the hidden neurons, the input of the linear that writes the MLP to the residual stream; ``attention``
    the outputs of the heads, the input of the linear that writes the attention; ``mlp_gate`` and ``mlp_up`` the two
    factors whose product is ``mlp`` in a gated MLP (the gate after its activation function); ``mlp_output`` what the
    MLP or the mixture of experts writes, before a norm or scaling that may follow; ``layer`` the output of the block.

    Parameters
    ----------
    model : torch.nn.Module
        A decoder from transformers.
    site : str
        One of :data:`SITES`.
    sites : str, list of str, or dict, optional
        Names the modules by hand, for a model whose structure is not understood: a regular expression that the dotted
        names match in full (``r"model\\.layers\\.\\d+\\.mlp\\.down_proj"``), a list of names, a dict ``{layer: name}``,
        or a dict of options: ``names`` (any of these), ``where`` ("input" or "output"), ``start`` and ``stop`` (a part
        of the last axis), ``size`` (of modules that are not linear), ``n_heads``. The input is read for ``mlp`` and
        ``attention``, the output for the others, unless ``where`` says otherwise.

    Returns
    -------
    list of Site
        In the order of the layers. In a hybrid model, layers without the site are left out.

    Raises
    ------
    ParameterError
        If the site is unknown or ``sites`` names no module.
    UnsupportedArchitectureError
        If the site cannot be found with certainty (mixtures of experts, encoder-decoders, a gate in an MLP without
        one); the message names the modules that were seen.

    Examples
    --------
    >>> import transformers
    >>> config = transformers.GPT2Config(n_embd=8, n_layer=2, n_head=2, vocab_size=16)
    >>> for found in find_sites(transformers.GPT2LMHeadModel(config)):
    ...     print(found.name, found.where, found.size)
    transformer.h.0.mlp.c_proj input 32
    transformer.h.1.mlp.c_proj input 32
    """
    refuse_wrapped(model)
    member = SITES[site]
    if sites is not None:
        return _by_hand(model, member, sites)
    blocks = anatomy_of(model).blocks
    found = [place for place in map(member, blocks) if place is not None]
    if not found:
        raise blocks[0].error(f"the site '{site}' in any layer")
    if len({id(s.module) for s in found}) < len(found):
        raise UnsupportedArchitectureError(
            f"{found[0].name} ({type(found[0].module).__name__}) is one module for several layers, so the site "
            f"'{site}' of {type(model).__name__} cannot be told apart by layer."
        )
    return found


def _by_hand(model, member, given):
    """Make the sites of the modules that the user named."""
    options = dict(given) if isinstance(given, dict) and all(isinstance(k, str) for k in given) else {"names": given}
    unknown = set(options) - {"names", "where", "start", "stop", "size", "n_heads"}
    if unknown or "names" not in options:
        raise ParameterError(
            f"sites={given!r}: a dict of options has names, where, start, stop, size, n_heads; or give {{layer: name}}."
        )
    where = options.get("where") or member.where
    if where not in ("input", "output"):
        raise ParameterError(f"where={where!r}: choose 'input' or 'output'.")
    modules = dict(model.named_modules())
    return [
        _named_site(layer, name, modules[name], where, options, model)
        for layer, name in _resolve(options["names"], modules)
    ]


def _resolve(names, modules):
    """Turn names, a regular expression or a dict into ``[(layer, name)]``, ordered by layer."""
    if isinstance(names, str):
        try:
            pattern = re.compile(names)
        except re.error as error:
            raise ParameterError(f"sites={names!r} (--modules) is not a regular expression: {error}.") from error
        matched = [name for name in modules if name and pattern.fullmatch(name)]
        if not matched:
            some = ", ".join([name for name in modules if name][:12])
            raise ParameterError(f"sites={names!r} (--modules) matches no module. The model has {some}, ...")
        names = matched
    if not isinstance(names, (dict, list, tuple)) or not all(
        isinstance(name, str) for name in names if not isinstance(names, dict)
    ):
        raise ParameterError(f"sites={names!r}: give a regular expression, a list of names, or {{layer: name}}.")
    pairs = list(names.items()) if isinstance(names, dict) else [(_layer_number(name), name) for name in names]
    missing = [name for _, name in pairs if name not in modules]
    if missing:
        raise ParameterError(f"The model has no module {missing[0]!r}; see dict(model.named_modules()) for the names.")
    layers = [layer for layer, _ in pairs]
    if not pairs or len(set(layers)) < len(layers):
        raise ParameterError(f"sites must name one module for each layer; got {', '.join(name for _, name in pairs)}.")
    return sorted(pairs)


def _layer_number(name):
    numbers = [int(part) for part in name.split(".") if part.isdigit()]
    if not numbers:
        raise ParameterError(f"The module {name!r} has no layer number in its name; give a dict {{layer: name}}.")
    return numbers[0]


def _named_site(layer, name, module, where, options, model):
    width = options.get("size")
    if width is None:
        if is_linear(module):
            width = features(module)[0 if where == "input" else 1]
        else:  # any other module is taken to work on the residual stream
            width = model.config.get_text_config().hidden_size
    start, stop = options.get("start") or 0, options.get("stop") or width
    if not 0 <= start < stop <= width:
        raise ParameterError(f"start={start}, stop={stop}: {name} has {width} neurons.")
    return Site(layer, name, module, where, stop - start, start, stop, options.get("n_heads"))

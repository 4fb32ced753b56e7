"""Where the neurons of a model are: sites found by the structure of its blocks, not by a list of model names."""

import re
from dataclasses import dataclass, field

from ..exceptions import ParameterError, UnsupportedArchitectureError
from .anatomy import attention_parts, decoder_blocks, features, mlp_parts

__all__ = ["SITES", "Site", "find_decoder_layers", "find_sites"]

SITES = ("mlp", "attention", "mlp_gate", "mlp_up", "mlp_output", "layer")
_INPUT_SITES = ("mlp", "attention")


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
        The module itself.
    where : {"input", "output"}
        Which side of the module holds the activations.
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


def find_decoder_layers(model):
    """Find the blocks of a decoder.

    Parameters
    ----------
    model : torch.nn.Module
        A decoder from transformers.

    Returns
    -------
    path : str
        Dotted path of the list of blocks.
    blocks : list of torch.nn.Module

    Raises
    ------
    UnsupportedArchitectureError
        For encoder-decoders and models without one list of equal blocks; the message names the modules seen.
    """
    return decoder_blocks(model)


def find_sites(model, site="mlp", sites=None):
    """Find one site in every layer.

    ``mlp`` are the hidden neurons, the input of the linear that writes the MLP back to the residual stream;
    ``attention`` the outputs of the heads, the input of the linear that writes the attention; ``mlp_gate`` and
    ``mlp_up`` the two factors whose product is ``mlp`` in a gated MLP (the gate after its activation function);
    ``mlp_output`` the output of the linear that writes the MLP, before a norm or scaling that may follow; ``layer``
    the output of the block.

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
        In the order of the layers.

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
    if site not in SITES:
        raise ParameterError(f"Unknown site {site!r}; choose from {', '.join(SITES)}.")
    if sites is not None:
        return _by_hand(model, site, sites)
    path, blocks = decoder_blocks(model)
    config = model.config.get_text_config()
    found = [_in_block(block, i, f"{path}.{i}", site, config) for i, block in enumerate(blocks)]
    if len({id(s.module) for s in found}) < len(found):
        raise UnsupportedArchitectureError(
            f"{found[0].name} ({type(found[0].module).__name__}) is one module for several layers, so the site "
            f"'{site}' of {type(model).__name__} cannot be told apart by layer."
        )
    return found


def _in_block(block, layer, path, site, config):
    width = config.hidden_size
    if site == "layer":
        return Site(layer, path, block, "output", width, 0, width)
    if site == "attention":
        parts = attention_parts(block, width)
        heads = getattr(config, "num_attention_heads", None)
        if not heads:
            raise UnsupportedArchitectureError(
                f"{type(block).__name__} has no attention heads ({parts.writer} writes what it mixes), so there is no "
                "site 'attention'. Name the modules by hand with sites=."
            )
        n_heads = heads if parts.size % heads == 0 else None
        return _site(layer, path, block, parts.writer, "input", 0, parts.size, n_heads)
    parts = mlp_parts(block, width, with_gate=site in ("mlp_gate", "mlp_up"))
    if site == "mlp":
        return _site(layer, path, block, parts.writer, "input", 0, parts.size)
    if site == "mlp_output":
        return _site(layer, path, block, parts.writer, "output", 0, width)
    if parts.gate is None:
        raise UnsupportedArchitectureError(
            f"The MLP of {type(block).__name__} has no gate ({parts.up}, {parts.writer}), so there is no site "
            f"'{site}'; use 'mlp'."
        )
    if site == "mlp_gate":
        return _site(layer, path, block, parts.activation, "output", 0, parts.size)
    return _site(layer, path, block, parts.up, "output", parts.up_start, parts.size)


def _site(layer, path, block, name, where, start, size, n_heads=None):
    return Site(layer, f"{path}.{name}", block.get_submodule(name), where, size, start, start + size, n_heads)


def _by_hand(model, site, given):
    """Sites that the user named."""
    options = dict(given) if isinstance(given, dict) and all(isinstance(k, str) for k in given) else {"names": given}
    unknown = set(options) - {"names", "where", "start", "stop", "size", "n_heads"}
    if unknown or "names" not in options:
        raise ParameterError(
            f"sites={given!r}: a dict of options has names, where, start, stop, size, n_heads; or give {{layer: name}}."
        )
    where = options.get("where") or ("input" if site in _INPUT_SITES else "output")
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
        matched = [name for name in modules if name and re.fullmatch(names, name)]
        if not matched:
            some = ", ".join([name for name in modules if name][:12])
            raise ParameterError(f"sites={names!r} matches no module. There are {some}, ...")
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
        try:
            width = features(module)[0 if where == "input" else 1]
        except AttributeError:
            width = model.config.get_text_config().hidden_size  # anything but a linear works on the residual stream
    start, stop = options.get("start") or 0, options.get("stop") or width
    if not 0 <= start < stop <= width:
        raise ParameterError(f"start={start}, stop={stop}: {name} has {width} neurons.")
    return Site(layer, name, module, where, stop - start, start, stop, options.get("n_heads"))

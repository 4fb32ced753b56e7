"""Where the neurons of a model are: sites found by the structure of its blocks, not by a list of model names."""

from dataclasses import dataclass, field

from ..exceptions import ParameterError, UnsupportedArchitectureError

__all__ = ["SITES", "Site", "find_decoder_layers", "find_sites"]

SITES = ("mlp", "attention", "mlp_gate", "mlp_up", "mlp_output", "layer")


@dataclass(frozen=True)
class Site:
    """One layer's place where neurons are read and written.

    Attributes
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
    """Find the blocks of a decoder: ``(dotted path, list of modules)``.

    Raises
    ------
    UnsupportedArchitectureError
        For encoder-decoders and models without a list of equal blocks.
    """
    import torch

    if getattr(model.config, "is_encoder_decoder", False):
        raise UnsupportedArchitectureError(
            f"{type(model).__name__} is an encoder-decoder; llmbrain reads decoder-only models."
        )
    lists = [
        (name, list(module))
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.ModuleList) and len({type(m) for m in module}) == 1
    ]
    lists = [(name, blocks) for name, blocks in lists if _linears(blocks[0])]
    if not lists:
        raise UnsupportedArchitectureError(
            f"No list of equal blocks was found in {type(model).__name__}; it has {_children(model)}."
        )
    return max(lists, key=lambda item: (len(item[1]), -item[0].count(".")))


def find_sites(model, site="mlp", sites=None):
    """Find one site in every layer.

    Parameters
    ----------
    model : torch.nn.Module
        A decoder from transformers.
    site : str
        One of :data:`SITES`.
    sites : dict or str, optional
        Reserved for naming the modules by hand.

    Returns
    -------
    list of Site
        In the order of the layers.

    Raises
    ------
    UnsupportedArchitectureError
        If the site cannot be found with certainty; the message names the modules that were seen.
    """
    if site not in SITES:
        raise ParameterError(f"Unknown site {site!r}; choose from {', '.join(SITES)}.")
    path, blocks = find_decoder_layers(model)
    width = model.config.get_text_config().hidden_size
    return [_site_of_block(block, i, f"{path}.{i}", site, width) for i, block in enumerate(blocks)]


def _site_of_block(block, layer, path, site, width):
    linears = _linears(block)
    is_attention = [any(part in name for part in ("attn", "attention")) for name in linears]
    if site == "layer":
        return Site(layer, path, block, "output", width, 0, width)
    wanted = site == "attention"
    writers = [
        name for name, att in zip(linears, is_attention) if att == wanted and _features(linears[name])[1] == width
    ]
    if not writers or site in ("mlp_gate", "mlp_up"):
        raise UnsupportedArchitectureError(
            f"The site '{site}' was not found in {path} ({type(block).__name__}); it has {', '.join(linears) or 'no linear layers'}."
        )
    name = writers[-1]
    module = linears[name]
    if site == "mlp_output":
        return Site(layer, f"{path}.{name}", module, "output", width, 0, width)
    size = _features(module)[0]
    return Site(layer, f"{path}.{name}", module, "input", size, 0, size)


def _linears(block):
    """Linear layers of a block by name, Conv1D of GPT-2 included."""
    import torch
    from transformers.pytorch_utils import Conv1D

    return {n: m for n, m in block.named_modules() if isinstance(m, (torch.nn.Linear, Conv1D))}


def _features(linear):
    """Inputs and outputs of a Linear or a Conv1D."""
    if hasattr(linear, "in_features"):
        return linear.in_features, linear.out_features
    return linear.nx, linear.nf


def _children(model):
    return ", ".join(f"{name} ({type(m).__name__})" for name, m in model.named_children())

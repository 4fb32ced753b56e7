"""What a decoder block is made of, read off its modules: which linears are the MLP, which the attention, who writes.

No list of architectures. A linear belongs to the attention if it lies in a module that keeps an attention cache
(transformers gives such a module its ``layer_idx``; one that calls itself an MLP may have it as well) or calls itself
attention; the others are the MLP. The linear that
writes back to the residual stream is the one whose outputs are as wide as the stream.
"""

import re
from dataclasses import dataclass

from ..exceptions import UnsupportedArchitectureError

__all__ = [
    "AttentionParts",
    "MlpParts",
    "attention_parts",
    "decoder_blocks",
    "features",
    "linears",
    "mlp_parts",
]

_READERS = re.compile(r"(^|_|\b)(q|k|v|qkv|query|key|value)(_|\b|$)")
_FEED_FORWARD = re.compile("mlp|ffn|feed_?forward")
_EXPERTS = re.compile(r"expert|router|moe(block|layer|mlp)|sparsemo", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class MlpParts:
    """The linears of an MLP.

    Parameters
    ----------
    writer : str
        Name of the linear that writes to the residual stream, within the block.
    up : str
        Name of the linear that reads the stream; in a gated MLP the factor without activation function.
    up_start : int
        First of its outputs that belong to ``up`` (a fused projection holds gate and up).
    gate : str or None
        Name of the linear of the factor that goes through the activation function; None if the MLP is not gated.
    gate_start : int
        First of its outputs that belong to the gate.
    activation : str or None
        Name of the activation function's module in a gated MLP.
    size : int
        Hidden neurons.
    """

    writer: str
    up: str
    up_start: int
    gate: str | None
    gate_start: int
    activation: str | None
    size: int


@dataclass(frozen=True)
class AttentionParts:
    """The linear that writes the heads' outputs to the residual stream.

    Parameters
    ----------
    writer : str
        Its name within the block.
    size : int
        Its inputs: heads times the width of a head.
    """

    writer: str
    size: int


def features(linear):
    """Inputs and outputs of a linear; GPT-2's Conv1D names them differently.

    Parameters
    ----------
    linear : torch.nn.Module

    Returns
    -------
    n_inputs, n_outputs : int
    """
    if hasattr(linear, "in_features"):
        return linear.in_features, linear.out_features
    return linear.nx, linear.nf


def linears(block):
    """Linear layers of a module by name, in the order of their definition.

    Whatever has ``in_features`` and ``out_features`` counts, so quantised ones do, and Conv1D. What a linear is made
    of inside (adapters) does not.

    Parameters
    ----------
    block : torch.nn.Module

    Returns
    -------
    dict of torch.nn.Module
    """
    found = {}
    for name, module in block.named_modules():
        is_linear = (hasattr(module, "in_features") and hasattr(module, "out_features")) or (
            hasattr(module, "nf") and hasattr(module, "nx")
        )
        if name and is_linear and not any(name.startswith(outer + ".") for outer in found):
            found[name] = module
    return found


def decoder_blocks(model):
    """Find the blocks of a decoder; see :func:`llmbrain.models.sites.find_decoder_layers`.

    Parameters
    ----------
    model : torch.nn.Module

    Returns
    -------
    path : str
        Dotted path of the list of blocks.
    blocks : list of torch.nn.Module

    Raises
    ------
    UnsupportedArchitectureError
        If there is not one such list.
    """
    import torch

    if getattr(model.config, "is_encoder_decoder", False):
        raise UnsupportedArchitectureError(
            f"{type(model).__name__} is an encoder-decoder ({_children(model)}); llmbrain reads decoder-only models."
        )
    text = model.config.get_text_config()
    candidates = []
    for name, module in model.named_modules():
        if not isinstance(module, torch.nn.ModuleList) or len(module) == 0:
            continue
        blocks = list(module)
        widths = {features(linear)[0] for linear in linears(blocks[0]).values()}
        if text.hidden_size in widths and len({type(b) for b in blocks}) == 1:
            candidates.append((len(blocks) == text.num_hidden_layers, len(blocks), -name.count("."), name, blocks))
    if not candidates or not max(candidates, key=lambda c: c[:3])[0]:
        raise UnsupportedArchitectureError(
            f"No list of {text.num_hidden_layers} equal blocks was found in {type(model).__name__}; it has "
            f"{_children(model)}. Name the modules by hand with sites=."
        )
    return max(candidates, key=lambda c: c[:3])[3:]


def attention_parts(block, width):
    """Find the linear that writes the attention's output.

    Parameters
    ----------
    block : torch.nn.Module
        A decoder block.
    width : int
        Width of the residual stream.

    Returns
    -------
    AttentionParts

    Raises
    ------
    UnsupportedArchitectureError
        If there is not exactly one; the message names the linears of the block.
    """
    attention = {name: m for name, m in linears(block).items() if _is_attention(block, name)}
    writers = [name for name, m in attention.items() if features(m)[1] == width]
    if len(writers) > 1:  # with as many key as query heads, those projections are square as well
        writers = [name for name in writers if not _READERS.search(name.rsplit(".", 1)[-1].lower())]
    if len(writers) != 1:
        raise UnsupportedArchitectureError(_message("the linear that writes the attention's output", block))
    return AttentionParts(writers[0], features(attention[writers[0]])[0])


def mlp_parts(block, width, with_gate=False):
    """Find the linears of the MLP.

    Parameters
    ----------
    block : torch.nn.Module
        A decoder block.
    width : int
        Width of the residual stream.
    with_gate : bool
        Whether to tell gate from up, for which the MLP is run once on one token.

    Raises
    ------
    UnsupportedArchitectureError
        If the linears are not those of a plain or gated MLP; the message names them.
    """
    experts = [name for name, m in block.named_modules() if name and _EXPERTS.search(type(m).__name__)]
    if experts:
        raise UnsupportedArchitectureError(
            f"{type(block).__name__} is a mixture of experts ({', '.join(experts)}): which neurons exist depends on "
            f"the token. It has {_names(block)}. Its sites 'attention' and 'layer' can be used, or name modules with "
            "sites=."
        )
    mlp = {name: m for name, m in linears(block).items() if not _is_attention(block, name)}
    sizes = {name: features(m) for name, m in mlp.items()}
    writers = [name for name, (_, outputs) in sizes.items() if outputs == width]
    if len(mlp) not in (2, 3) or not writers:
        raise UnsupportedArchitectureError(_message("a plain or gated MLP", block))
    writer = writers[-1]  # if the MLP is exactly as wide as the stream, the writer is defined after its readers
    size = sizes[writer][0]
    readers = [name for name in mlp if name != writer]
    if any(sizes[name][0] != width for name in readers):
        raise UnsupportedArchitectureError(_message("a plain or gated MLP", block))
    outputs = [sizes[name][1] for name in readers]
    if outputs == [size]:
        return MlpParts(writer, readers[0], 0, None, 0, None, size)
    if outputs not in ([size, size], [2 * size]):
        raise UnsupportedArchitectureError(_message("a plain or gated MLP", block))
    if not with_gate:
        return MlpParts(writer, readers[-1], 0, readers[0], 0, None, size)
    return _tell_gate(block, writer, readers, size)


def _tell_gate(block, writer, readers, size):
    """Run the MLP on one token: the factor that the activation function is given is the gate."""
    import torch

    container, prefix = _container(block, [writer, *readers])
    inside = {name for name, m in container.named_modules() if name and not any(m.children())}
    inside -= {name.removeprefix(prefix) for name in (writer, *readers)}
    outputs, given, activated, handles = {}, {}, {}, []

    def keep_output(name, into=outputs):
        return lambda module, args, output: into.__setitem__(name, output)

    def keep_input(name):
        return lambda module, args: given.__setitem__(name, args[0])

    linear = block.get_submodule(readers[0])
    weight = linear.weight
    with torch.no_grad():
        try:
            handles += [block.get_submodule(name).register_forward_hook(keep_output(name)) for name in readers]
            handles += [container.get_submodule(n).register_forward_pre_hook(keep_input(prefix + n)) for n in inside]
            handles += [
                container.get_submodule(n).register_forward_hook(keep_output(prefix + n, activated)) for n in inside
            ]
            handles.append(block.get_submodule(writer).register_forward_pre_hook(keep_input(writer)))
            dtype = weight.dtype if weight.dtype.is_floating_point else torch.float32
            device = getattr(getattr(linear, "_hf_hook", None), "execution_device", None) or weight.device
            container(torch.ones(1, 1, features(linear)[0], dtype=dtype, device=device))
        finally:
            for handle in handles:
                handle.remove()
    written = given.pop(writer)
    for activation, x in given.items():
        for name, output in outputs.items():
            start = _start_within(x, output, size)
            if start is not None:
                up = next((other for other in readers if other != name), name)
                up_start = 0 if up != name else size - start
                product = activated[activation] * outputs[up][..., up_start : up_start + size]
                if written.device.type != "meta" and not torch.allclose(product, written, rtol=0.05, atol=1e-6):
                    raise UnsupportedArchitectureError(
                        _message(f"a gated MLP whose neurons are {activation} x {up} and nothing else", block)
                    )
                return MlpParts(writer, up, up_start, name, start, activation, size)
    raise UnsupportedArchitectureError(_message("the activation function of a gated MLP as a module", block))


def _start_within(x, output, size):
    """Where ``x`` begins on the last axis of ``output`` if it is a view of it (or itself), else None."""
    if x is output:
        return 0
    if x.shape[-1] != size or x._base is not (output if output._base is None else output._base):
        return None
    return int(x.storage_offset() - output.storage_offset())


def _container(block, names):
    """The smallest module that holds all named linears, and its path with a dot at the end."""
    parts = [name.split(".")[:-1] for name in names]
    common = []
    for level in zip(*parts):
        if len(set(level)) > 1:
            break
        common.append(level[0])
    if not common:
        raise UnsupportedArchitectureError(_message("a gated MLP that is a module of its own", block))
    path = ".".join(common)
    return block.get_submodule(path), path + "."


def _is_attention(block, name):
    path = ""
    for part in name.split(".")[:-1]:
        path = f"{path}.{part}" if path else part
        module = block.get_submodule(path)
        called = f"{part} {type(module).__name__}".lower()
        if re.search("att(e)?n", called) or (hasattr(module, "layer_idx") and not _FEED_FORWARD.search(called)):
            return True
    return False


def _message(what, block):
    return (
        f"Could not find {what} in {type(block).__name__}; it has {_names(block)}. "
        "Name the modules by hand with sites= (a regular expression or a dict)."
    )


def _names(block):
    return ", ".join(f"{name} {features(m)}" for name, m in linears(block).items()) or "no linear layers"


def _children(model):
    return ", ".join(
        f"{name} ({type(m).__name__})" for name, m in model.named_modules() if name and name.count(".") < 2
    )

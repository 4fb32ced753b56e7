"""The anatomy of a decoder: its blocks, and in each block the MLP and the attention, as modules.

Everything is derived from the modules, without a list of architectures. A module of a block that mixes tokens keeps an
attention cache (transformers then gives it a ``layer_idx``), calls itself attention, or convolves. The linears outside
such modules form the MLP. A linear that writes to the residual stream has as many outputs as the stream is wide.
"""

import re
from dataclasses import dataclass, field
from functools import cached_property

from ..exceptions import UnsupportedArchitectureError
from .linears import below, features, inside, is_linear, linears, parent_of
from .parts import Attention, Mlp, Reader

_QUERY_KEY_VALUE = re.compile(r"(^|_|\b)(q|k|v|qkv|query|key|value)(_|\b|$)")
_ATTENTION = re.compile("att(e)?n")
_FEED_FORWARD = re.compile("mlp|ffn|feed_?forward")


@dataclass(frozen=True, eq=False)
class Block:
    """One block of a decoder. Each part is found at its first use."""

    layer: int
    name: str  # dotted path in the model
    module: object = field(repr=False)
    config: object = field(repr=False)  # of the language model

    @property
    def width(self):
        """Width of the residual stream."""
        return self.config.hidden_size

    def path(self, local):
        """Dotted path in the model of a module that is named within the block."""
        return f"{self.name}.{local}" if local else self.name

    def local(self, path):
        """Dotted path within the block of a module that is named within the model."""
        return below(path, self.name)

    def modules(self, inside=None):
        """Modules of the block, or of one of them, with their dotted paths in the model."""
        for local, module in self.module.named_modules():
            path = self.path(local)
            if inside is None or path == inside or path.startswith(inside + "."):
                yield path, module

    @cached_property
    def linears(self):
        """Linears of the block by dotted path in the model, in the order of their definition."""
        return {self.path(local): linear for local, linear in linears(self.module).items()}

    @cached_property
    def mixers(self):
        """Modules that mix tokens, by dotted path: attention, convolutions, state spaces."""
        found = {}
        for path, module in self.modules():
            if module is not self.module and not inside(path, found) and _mixes(path, module):
                found[path] = module
        return found

    @cached_property
    def attention(self):
        """The attention of this block; None if it has none, an error if its writer was not found with certainty."""
        convolves = [path for path, module in self.mixers.items() if _convolves(module)]
        paths = [path for path in self.mixers if path not in convolves]
        if not paths:
            return None
        found = {name: linear for name, linear in self.linears.items() if inside(name, paths)}
        writers = [name for name, linear in found.items() if features(linear)[1] == self.width]
        if len(writers) > 1:  # with as many key/value heads as query heads, the other projections are square too
            writers = [name for name in writers if not _QUERY_KEY_VALUE.search(name.rsplit(".", 1)[-1].lower())]
        if len(writers) != 1:
            raise self.error("the linear that writes the attention's output")
        (name,) = writers
        writer, owner = found.pop(name), self.module.get_submodule(self.local(name.rpartition(".")[0]) or "")
        size = features(writer)[0]
        return Attention(self, name, owner, writer, *self._heads(owner, size, found))

    def _heads(self, owner, size, linears):
        """Readers, inputs of the writer, numbers of heads and their width."""
        readers = self._projections(owner, size, linears)
        n_heads = getattr(self.config, "num_attention_heads", None)
        head_dim = _whole(getattr(owner, "head_dim", None)) or _whole(getattr(self.config, "head_dim", None))
        if not head_dim and n_heads:
            head_dim = self.width // n_heads
        if readers and head_dim and not any(r.size % head_dim for r in readers):
            n_kv_heads = min(r.size for r in readers) // head_dim
            if n_kv_heads and size // head_dim % n_kv_heads == 0:
                return readers, size, size // head_dim, n_kv_heads, head_dim
        if not n_heads or size % n_heads:
            return (), size, None, None, None
        return (), size, n_heads, None, size // n_heads

    def _projections(self, owner, size, linears):
        """Queries, keys and values, if they are three linears or three equal parts of one."""
        if any(features(linear)[0] != self.width for linear in linears.values()):
            return ()
        outputs = sorted(features(linear)[1] for linear in linears.values())
        if len(outputs) == 3 and outputs[2] == size and outputs[0] == outputs[1]:
            return tuple(Reader(name, linear, 0, features(linear)[1]) for name, linear in linears.items())
        # Only a module with its own split_size splits correctly after slicing; others use the config (Phi-3) or
        # interleave the heads (GPT-NeoX).
        if outputs == [3 * size] and getattr(owner, "split_size", None) == size:
            ((name, linear),) = linears.items()
            return tuple(Reader(name, linear, i * size, (i + 1) * size) for i in range(3))
        return ()

    @cached_property
    def experts(self):
        """Dotted path and module of a mixture of experts, router included; None in a dense block."""
        for path, module in self.modules():
            if path in self.mixers or inside(path, self.mixers) or not _holds_experts(module, self.width):
                continue
            while (parent := path.rpartition(".")[0]) != self.name and not self._mixes_inside(parent):
                path = parent
            return path, self.module.get_submodule(self.local(path))
        return None

    def _mixes_inside(self, path):
        return any(below(mixer, path) is not None for mixer in self.mixers)

    @cached_property
    def outside_mixers(self):
        """Linears outside the modules that mix tokens, by dotted path."""
        return {name: linear for name, linear in self.linears.items() if not inside(name, self.mixers)}

    @cached_property
    def mlp(self):
        """The MLP of this block; None if it has none, an error if it is neither plain nor gated."""
        if self.experts:
            raise UnsupportedArchitectureError(
                f"{type(self.module).__name__} is a mixture of experts ({self.local(self.experts[0])}: "
                f"{type(self.experts[1]).__name__}): which neurons run depends on the token. It has {self._listed()}. "
                "Use one of the sites 'mlp_output', 'attention' and 'layer', or name modules with sites=."
            )
        found = self._feed_forward()
        if not found:
            return None
        writers = [name for name, linear in found.items() if features(linear)[1] == self.width]
        if len(found) not in (2, 3) or not writers:
            raise self.error("a plain or gated MLP")
        name = writers[-1]  # in an MLP exactly as wide as the stream, the writer is defined after its readers
        writer, size = found[name], features(found[name])[0]
        others = {path: linear for path, linear in found.items() if path != name}
        outputs = [features(linear)[1] for linear in others.values()]
        if outputs not in ([size], [size, size], [2 * size]):
            raise self.error("a plain or gated MLP")
        if any(features(linear)[0] != self.width for linear in others.values()):
            raise self.error("a plain or gated MLP")
        readers = tuple(
            Reader(path, linear, start, start + size)
            for path, linear in others.items()
            for start in range(0, features(linear)[1], size)
        )
        owner = self.module.get_submodule(self.local(parent_of(found)) or "")
        return Mlp(self, name, owner, writer, readers, size)

    def _feed_forward(self):
        """Linears of the MLP. Where a block has more than an MLP can have, those of its one module called MLP."""
        found = self.outside_mixers
        if len(found) <= 3:
            return found
        named = {}
        for path, module in self.modules():
            if module is not self.module and not inside(path, named) and _FEED_FORWARD.search(_called(path, module)):
                named[path] = {name: linear for name, linear in found.items() if inside(name, [path])}
        named = [inside for inside in named.values() if inside]
        return named[0] if len(named) == 1 else found

    def error(self, what):
        """Make the error that names what was not found and lists the linears of the block."""
        return UnsupportedArchitectureError(
            f"Could not find {what} in {type(self.module).__name__}; it has {self._listed()}. "
            "Name the modules by hand with sites= (a regular expression or a dict)."
        )

    def _listed(self):
        return ", ".join(f"{self.local(n)} {features(m)}" for n, m in self.linears.items()) or "no linear layers"


@dataclass(frozen=True, eq=False)
class Anatomy:
    """The parts of a decoder."""

    model: object = field(repr=False)
    config: object = field(repr=False)  # of the language model
    path: str  # dotted path of the list of blocks
    blocks: tuple = field(repr=False)

    @property
    def layers(self):
        """Modules of the blocks."""
        return [block.module for block in self.blocks]

    @property
    def head(self):
        """The output embedding."""
        return self.model.get_output_embeddings()

    @property
    def norm(self):
        """The norm between the last block and the head, with a projection to a narrower head; the identity if none."""
        import torch

        width, owner = self.config.hidden_size, self.model.get_submodule(self.path.rpartition(".")[0])
        norms = [module for module in owner.children() if _is_norm(module, width, self.model.dtype)][-1:]
        ends = width, features(self.head)[0]
        if ends[0] != ends[1]:  # OPT of 350M parameters
            norms += [module for module in owner.children() if is_linear(module) and features(module) == ends]
        return torch.nn.Sequential(*norms) if len(norms) != 1 else norms[0]


def anatomy_of(model):
    """Find the blocks of a decoder.

    In a multimodal model the search stays inside the language model.

    Parameters
    ----------
    model : torch.nn.Module
        A decoder from transformers.

    Returns
    -------
    Anatomy

    Raises
    ------
    UnsupportedArchitectureError
        For encoder-decoders and models without a list of blocks; the message names the modules that were seen.

    Examples
    --------
    >>> import transformers
    >>> config = transformers.GPT2Config(n_embd=8, n_layer=2, n_head=2, vocab_size=16)
    >>> anatomy = anatomy_of(transformers.GPT2LMHeadModel(config))
    >>> anatomy.path, anatomy.blocks[1].mlp.name, anatomy.blocks[1].attention.n_heads
    ('transformer.h', 'transformer.h.1.mlp.c_proj', 2)
    """
    import torch

    if getattr(model.config, "is_encoder_decoder", False):
        raise UnsupportedArchitectureError(
            f"{type(model).__name__} is an encoder-decoder ({_children(model)}); llmbrain reads decoder-only models."
        )
    text = model.config.get_text_config()
    candidates = []
    for name, module, in_text in _language_modules(model, text):
        if not isinstance(module, torch.nn.ModuleList) or len(module) != text.num_hidden_layers:
            continue
        if all(any(text.hidden_size in features(m) for m in linears(block).values()) for block in module):
            equal = len({type(block) for block in module}) == 1
            candidates.append(((in_text, equal, -name.count(".")), name, list(module)))
    if not candidates:
        raise UnsupportedArchitectureError(
            f"No list of {text.num_hidden_layers} decoder blocks was found in {type(model).__name__}; it has "
            f"{_children(model)}. Name the modules by hand with sites=."
        )
    _, path, modules = max(candidates, key=lambda c: c[0])
    blocks = tuple(Block(i, f"{path}.{i}", module, text) for i, module in enumerate(modules))
    return Anatomy(model, text, path, blocks)


def _language_modules(model, text):
    """Modules of the language model with their paths, and whether they lie in a module that has the text config.

    A vision or audio tower has a config of its own class; its modules are left out.
    """
    own = (type(model.config), type(text))

    def walk(name, module, in_text):
        config = getattr(module, "config", None)
        if hasattr(config, "to_dict") and type(config) not in own:
            return
        in_text = in_text or type(config) is type(text)
        yield name, module, in_text
        for child_name, child in module.named_children():
            yield from walk(f"{name}.{child_name}" if name else child_name, child, in_text)

    yield from walk("", model, False)


def _called(path, module):
    return f"{path.rsplit('.', 1)[-1]} {type(module).__name__}".lower()


def _mixes(path, module):
    """Whether a module of a block mixes tokens; a module that holds a feed-forward part as well does not count."""
    called = _called(path, module)
    if not linears(module) or any(_FEED_FORWARD.search(_called(n, m)) for n, m in module.named_modules() if n):
        return False
    if _ATTENTION.search(called):
        return True
    return not _FEED_FORWARD.search(called) and (hasattr(module, "layer_idx") or _convolves(module))


def _convolves(module):
    import torch

    return any(isinstance(m, torch.nn.Conv1d) for m in module.modules())


def _holds_experts(module, width):
    """Whether the experts of a mixture lie directly in a module: as stacked weights, or as a list of MLPs."""
    import torch

    if isinstance(module, torch.nn.ModuleList):
        ends = [[features(linear) for linear in linears(expert).values()] for expert in module]
        return len(ends) > 1 and all(any(i == width for i, _ in e) and any(o == width for _, o in e) for e in ends)
    if isinstance(module, torch.nn.modules.conv._ConvNd):
        return False
    weights = module.parameters(recurse=False)
    return any(p.ndim == 3 and width in p.shape[1:] and min(p.shape) > 1 for p in weights)


def _is_norm(module, width, dtype):
    """Whether a module normalises: it maps a vector and a multiple of it to the same vector."""
    import torch

    weights = list(module.parameters())
    if any(p.shape != (width,) for p in weights) or any(module.children()):
        return False
    device = weights[0].device if weights else "cpu"
    x = torch.linspace(-100, 101, width, device=device, dtype=dtype)[None, None]
    try:
        with torch.no_grad():
            one, two = module(x), module(4 * x)
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError):  # it does not take a vector alone
        return False
    return isinstance(one, torch.Tensor) and one.shape == x.shape and torch.allclose(one, two, rtol=1e-2, atol=1e-3)


def _whole(value):
    return value if isinstance(value, int) and value > 0 else None


def _children(model):
    return ", ".join(
        f"{name} ({type(m).__name__})" for name, m in model.named_modules() if name and name.count(".") < 2
    )

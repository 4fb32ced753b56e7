"""The anatomy of a decoder: its blocks, and in each block the MLP and the attention, as modules.

Everything is derived from the modules, without a list of architectures. A module of a block that mixes tokens keeps an
attention cache (transformers then gives it a ``layer_idx``), calls itself attention, or convolves. The linears outside
such modules form the MLP. A linear that writes to the residual stream has as many outputs as the stream is wide.
"""

import re
from dataclasses import dataclass, field, replace
from functools import cached_property

from ..exceptions import UnsupportedArchitectureError

__all__ = [
    "Anatomy",
    "Attention",
    "Block",
    "Mlp",
    "Reader",
    "anatomy_of",
    "features",
    "is_linear",
    "is_transposed",
    "linears",
    "modules_of",
    "weight_of",
]

_QUERY_KEY_VALUE = re.compile(r"(^|_|\b)(q|k|v|qkv|query|key|value)(_|\b|$)")
_ATTENTION = re.compile("att(e)?n")
_FEED_FORWARD = re.compile("mlp|ffn|feed_?forward")


# -- linears ----------------------------------------------------------------------------------------------------------
def is_linear(module):
    """Whether a module is a linear: it has numbers of inputs and outputs, as quantised linears and Conv1D have."""
    return all(hasattr(module, name) for name in ("in_features", "out_features")) or is_transposed(module)


def is_transposed(module):
    """Whether a linear stores its weight as ``(n_inputs, n_outputs)``, as the Conv1D of GPT-2 does."""
    return hasattr(module, "nx") and hasattr(module, "nf")


def features(linear):
    """Number of inputs and outputs of a linear."""
    return (linear.nx, linear.nf) if is_transposed(linear) else (linear.in_features, linear.out_features)


def weight_of(linear):
    """Weight of a linear as a view of shape ``(n_outputs, n_inputs)``."""
    return linear.weight.T if is_transposed(linear) else linear.weight


def linears(module):
    """Linears inside a module by dotted path, in the order of their definition; those inside a linear are left out."""
    found = {}
    for name, inner in module.named_modules():
        if name and is_linear(inner) and not _inside(name, found):
            found[name] = inner
    return found


# -- parts of a block -------------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Reader:
    """Some outputs of a linear that reads the residual stream. A fused projection holds several readers."""

    name: str  # dotted path of the linear in the model
    module: object = field(repr=False)
    start: int  # first output
    stop: int  # the one after the last

    @property
    def size(self):
        """Number of outputs."""
        return self.stop - self.start

    @property
    def unit_cost(self):
        """Parameters per output."""
        return features(self.module)[0] + (self.module.bias is not None)


def modules_of(readers):
    """Group readers by their linear: ``[(module, readers in the order of their outputs)]``."""
    found = {}
    for reader in readers:
        found.setdefault(id(reader.module), []).append(reader)
    return [(group[0].module, sorted(group, key=lambda r: r.start)) for group in found.values()]


@dataclass(frozen=True, eq=False)
class Part:
    """A part of a block that reads the residual stream and writes to it."""

    block: object = field(repr=False)
    name: str  # dotted path of the writer in the model
    owner: object = field(repr=False)  # the module that holds the linears; the block if they lie directly in it
    writer: object = field(repr=False)  # the linear that writes to the residual stream
    readers: tuple
    size: int  # inputs of the writer

    @property
    def layer(self):
        """Number of the block."""
        return self.block.layer

    @property
    def linears(self):
        """The writer and the linears of the readers."""
        return [self.writer, *(module for module, _ in modules_of(self.readers))]


@dataclass(frozen=True, eq=False)
class Mlp(Part):
    """The MLP of one block: one reader, or two if it is gated, with one output per neuron."""

    @property
    def is_gated(self):
        """Whether the neurons are the product of a gate and a linear factor."""
        return len(self.readers) == 2

    @property
    def unit_cost(self):
        """Parameters that belong to one neuron."""
        return features(self.writer)[1] + sum(reader.unit_cost for reader in self.readers)

    def now(self):
        """Return the same MLP with the size that it has now, after slicing."""
        size = features(self.writer)[0]
        readers = [replace(r, start=(s := r.start // self.size * size), stop=s + size) for r in self.readers]
        return replace(self, size=size, readers=tuple(readers))

    @property
    def gate(self):
        """Reader of the factor that passes the activation function; None in a plain MLP."""
        return self._factors[0]

    @property
    def up(self):
        """Reader of the other factor; in a plain MLP the only reader."""
        return self._factors[1]

    @property
    def activation_name(self):
        """Dotted path of the activation function in the model."""
        return self._factors[2]

    @property
    def activation(self):
        """The activation function, a module."""
        return self.owner.get_submodule(_below(self.activation_name, self._owner_name))

    @property
    def _owner_name(self):
        return next(name for name, module in self.block.modules() if module is self.owner)

    @cached_property
    def _factors(self):
        """Gate, up and path of the activation function."""
        if self.is_gated:
            return self._try()
        outside = [path for path in self.block.mixers if _below(path, self._owner_name) is not None]
        found = [
            name
            for name, module in self.block.modules(self._owner_name)
            if _is_plain(module) and not _inside(name, outside)
        ]
        if len(found) != 1:
            raise self.block.error("the activation function of the MLP as a module")
        return None, self.readers[0], found[0]

    def _try(self):
        """Run the MLP on one token. The factor that the activation function receives is the gate."""
        import torch

        if self.owner is self.block.module:
            raise self.block.error("a gated MLP that is a module of its own")
        first = self.readers[0].module
        inside = [
            (name, module)
            for name, module in self.block.modules(self._owner_name)
            if module is not self.owner and not any(module.children()) and module not in self.linears
        ]
        outputs, given, activated, handles = {}, {}, {}, []

        def keep_output(key, into):
            return lambda module, args, output: into.__setitem__(key, output)

        def keep_input(key):
            return lambda module, args: given.__setitem__(key, args[0])

        dtype = first.weight.dtype if first.weight.dtype.is_floating_point else torch.float32
        device = getattr(getattr(first, "_hf_hook", None), "execution_device", None) or first.weight.device
        with torch.no_grad():
            try:
                for module, _ in modules_of(self.readers):
                    handles.append(module.register_forward_hook(keep_output(module, outputs)))
                for name, module in inside:
                    handles.append(module.register_forward_pre_hook(keep_input(name)))
                    handles.append(module.register_forward_hook(keep_output(name, activated)))
                handles.append(self.writer.register_forward_pre_hook(keep_input(self.name)))
                self.owner(torch.ones(1, 1, features(first)[0], dtype=dtype, device=device))
            finally:
                for handle in handles:
                    handle.remove()
        written = given.pop(self.name)
        for name, x in given.items():
            for gate, up in (self.readers, self.readers[::-1]):
                if _start_within(x, outputs[gate.module], self.size) != gate.start:
                    continue
                product = activated[name] * outputs[up.module][..., up.start : up.stop]
                if written.device.type != "meta" and not torch.allclose(product, written, rtol=0.05, atol=1e-6):
                    names = [self.block.local(path) for path in (name, up.name)]
                    raise self.block.error(f"a gated MLP whose neurons are exactly {' x '.join(names)}")
                return gate, up, name
        raise self.block.error("the activation function of a gated MLP as a module")


@dataclass(frozen=True, eq=False)
class Attention(Part):
    """The attention of one block. The inputs of its writer are the outputs of the heads, one after the other.

    The readers are queries, keys and values: those with ``n_heads * head_dim`` outputs and those with
    ``n_kv_heads * head_dim``. There are none if the projections are laid out in an unknown way.
    """

    n_heads: int | None  # query heads; None if unknown, as the next two
    n_kv_heads: int | None
    head_dim: int | None

    @property
    def group(self):
        """Query heads that share one key/value head."""
        return self.n_heads // self.n_kv_heads

    @property
    def unit_cost(self):
        """Parameters that belong to one key/value head and its query heads."""
        return self._cost(self.group, 1)

    @property
    def row_cost(self):
        """Parameters that belong to one query head of every group."""
        return self._cost(self.n_kv_heads, 0)

    def _cost(self, n_heads, n_kv_heads):
        rows = sum(r.unit_cost * (n_heads if r.size == self.size else n_kv_heads) for r in self.readers)
        return self.head_dim * (rows + n_heads * features(self.writer)[1])


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
        return _below(path, self.name)

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
            if module is not self.module and not _inside(path, found) and _mixes(path, module):
                found[path] = module
        return found

    @cached_property
    def attention(self):
        """The attention of this block; None if it has none, an error if its writer was not found with certainty."""
        convolves = [path for path, module in self.mixers.items() if _convolves(module)]
        paths = [path for path in self.mixers if path not in convolves]
        if not paths:
            return None
        found = {name: linear for name, linear in self.linears.items() if _inside(name, paths)}
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
            if path in self.mixers or _inside(path, self.mixers) or not _holds_experts(module, self.width):
                continue
            while (parent := path.rpartition(".")[0]) != self.name and not self._mixes_inside(parent):
                path = parent
            return path, self.module.get_submodule(self.local(path))
        return None

    def _mixes_inside(self, path):
        return any(_below(mixer, path) is not None for mixer in self.mixers)

    @cached_property
    def outside_mixers(self):
        """Linears outside the modules that mix tokens, by dotted path."""
        return {name: linear for name, linear in self.linears.items() if not _inside(name, self.mixers)}

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
        owner = self.module.get_submodule(self.local(_common(found)) or "")
        return Mlp(self, name, owner, writer, readers, size)

    def _feed_forward(self):
        """Linears of the MLP. Where a block has more than an MLP can have, those of its one module called MLP."""
        found = self.outside_mixers
        if len(found) <= 3:
            return found
        named = {}
        for path, module in self.modules():
            if module is not self.module and not _inside(path, named) and _FEED_FORWARD.search(_called(path, module)):
                named[path] = {name: linear for name, linear in found.items() if _inside(name, [path])}
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


# -- the model --------------------------------------------------------------------------------------------------------
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
        """The norm between the last block and the head; the identity if there is none."""
        import torch

        owner = self.model.get_submodule(self.path.rpartition(".")[0])
        norms = [module for module in owner.children() if _is_norm(module, self.config.hidden_size, self.model.dtype)]
        return norms[-1] if norms else torch.nn.Identity()


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


# -- helpers ----------------------------------------------------------------------------------------------------------
def _inside(path, outer):
    """Whether a path lies below one of the others."""
    return any(path.startswith(name + ".") for name in outer)


def _below(path, outer):
    """The rest of a path below another one; None if it does not lie there."""
    if path == outer:
        return ""
    return path[len(outer) + 1 :] if path.startswith(outer + ".") else None


def _common(paths):
    """The path that all others share, module by module."""
    common = []
    for level in zip(*(path.split(".")[:-1] for path in paths)):
        if len(set(level)) > 1:
            break
        common.append(level[0])
    return ".".join(common)


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


def _is_plain(module):
    """Whether a module has no children and no parameters, as activation functions; dropout does not count."""
    import torch

    own = [*module.children(), *module.parameters()]
    return not own and not isinstance(module, (torch.nn.modules.dropout._DropoutNd, torch.nn.Identity))


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


def _start_within(x, output, size):
    """Where ``x`` begins on the last axis of ``output`` if it is a view of it (or itself), else None."""
    if x is output:
        return 0
    if x.shape[-1] != size or x._base is not (output if output._base is None else output._base):
        return None
    return int(x.storage_offset() - output.storage_offset())


def _whole(value):
    return value if isinstance(value, int) and value > 0 else None


def _children(model):
    return ", ".join(
        f"{name} ({type(m).__name__})" for name, m in model.named_modules() if name and name.count(".") < 2
    )

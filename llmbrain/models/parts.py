"""The parts of a decoder block, MLP and attention: what reads the residual stream and what writes to it."""

from dataclasses import dataclass, field, replace
from functools import cached_property

from .hooks import attached
from .linears import below, features, inside


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
        return self.owner.get_submodule(below(self.activation_name, self._owner_name))

    @property
    def _owner_name(self):
        return next(name for name, module in self.block.modules() if module is self.owner)

    @cached_property
    def _factors(self):
        """Gate, up and path of the activation function."""
        if self.is_gated:
            return self._try()
        outside = [path for path in self.block.mixers if below(path, self._owner_name) is not None]
        found = [
            name
            for name, module in self.block.modules(self._owner_name)
            if _is_plain(module) and not inside(name, outside)
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
        outputs, given, activated = {}, {}, {}

        def keep_output(key, into):
            return lambda module, args, output: into.__setitem__(key, output)

        def keep_input(key):
            return lambda module, args: given.__setitem__(key, args[0])

        dtype = first.weight.dtype if first.weight.dtype.is_floating_point else torch.float32
        device = getattr(getattr(first, "_hf_hook", None), "execution_device", None) or first.weight.device
        hooks = [(m.register_forward_hook, keep_output(m, outputs)) for m, _ in modules_of(self.readers)]
        for name, module in inside:
            hooks += [(module.register_forward_pre_hook, keep_input(name))]
            hooks += [(module.register_forward_hook, keep_output(name, activated))]
        hooks += [(self.writer.register_forward_pre_hook, keep_input(self.name))]
        with torch.no_grad(), attached(hooks):
            self.owner(torch.ones(1, 1, features(first)[0], dtype=dtype, device=device))
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


def _is_plain(module):
    """Whether a module has no children and no parameters, as activation functions; dropout does not count."""
    import torch

    own = [*module.children(), *module.parameters()]
    return not own and not isinstance(module, (torch.nn.modules.dropout._DropoutNd, torch.nn.Identity))


def _start_within(x, output, size):
    """Where ``x`` begins on the last axis of ``output`` if it is a view of it (or itself), else None."""
    if x is output:
        return 0
    if x.shape[-1] != size or x._base is not (output if output._base is None else output._base):
        return None
    return int(x.storage_offset() - output.storage_offset())

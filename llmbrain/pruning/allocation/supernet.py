"""Layers that are cut and refitted at several widths, and models assembled from them."""

import torch

from ...models.anatomy import anatomy_of
from ...models.linears import weight_of
from ...models.parts import modules_of
from ...models.surgery import set_linear, weights_of
from ...parallel import broadcast, rank, world_size
from ..compensation import compensate
from ..equations import frozen
from ..walk import Walk


class Supernet:
    """All layers cut and refitted at several widths, which can be swapped into the model.

    ``orders`` are the neurons of each layer, best first, and ``widths`` the widths of each layer. States of a search
    count steps of ``1 / n_steps`` of a layer.
    """

    def __init__(self, model, parts, orders, widths, n_steps=20):
        self.model, self.parts, self.orders, self.widths = model, parts, orders, widths
        self.n_steps = int(n_steps)
        self.refits = [{} for _ in parts]
        self._dense = [weights_of(p.linears) for p in parts]

    def width_of(self, state):
        """Convert steps per layer to widths."""
        return [max(1, round(p.size * int(k) / self.n_steps)) for p, k in zip(self.parts, state)]

    def fit(self, i, moments, ridge):
        """Refit layer ``i`` at all widths; several processes share the widths."""
        part = self.parts[i]
        weight, moments = weight_of(part.writer).detach(), frozen(moments)
        for place, width in enumerate(self.widths[i]):
            kept = self.orders[i][:width].sort().values
            if place % world_size() == rank():
                refit = compensate(weight, moments, kept, "affine", ridge)
                new = refit.weight.to(weight.dtype), refit.bias.to(weight.dtype)
            else:
                new = weight.new_empty(len(weight), width), weight.new_empty(len(weight))
            self.refits[i][width] = (kept, *new)
        for place, width in enumerate(self.widths[i]):
            for tensor in self.refits[i][width][1:]:
                broadcast(tensor, place % world_size())

    @torch.no_grad()
    def put(self, i, width):
        """Give layer ``i`` the nearest fitted width, or its own if ``width`` is above all of them."""
        part = self.parts[i]
        self.take(i)
        if not self.widths[i] or width >= (part.size + self.widths[i][-1]) / 2:
            return
        kept, weight, bias = self.refits[i][min(self.widths[i], key=lambda w: abs(w - width))]
        for module, readers in modules_of(part.readers):
            rows = torch.cat([reader.start + kept for reader in readers])
            old = weight_of(module)
            set_linear(module, old[rows], None if module.bias is None else module.bias[rows])
        old_bias = part.writer.bias
        set_linear(part.writer, weight, bias if old_bias is None else bias + old_bias)

    def take(self, i):
        """Make layer ``i`` dense again."""
        self._dense[i]()

    def take_all(self):
        """Make the whole model dense again."""
        for i in range(len(self.parts)):
            self.take(i)


def run_rest(walk, first, norm):
    """Final hidden states from a layer of the walk to the end of the model, block by block."""
    for block in range(len(walk.blocks)):
        hidden = walk.hidden[block]
        for layer in range(first, len(walk.layers)):
            hidden = walk.run(layer, block, hidden)
        yield norm(hidden)


class Assembly:
    """A model assembled from layers of a supernet, with the residual stream before every layer.

    A trial changes some layers and runs the model from the first of them on.
    """

    def __init__(self, supernet, probe):
        self.supernet, self.probe = supernet, probe
        self.layers = [part.layer for part in supernet.parts]
        self.walk = Walk(probe.model, probe.blocks)
        self.norm = anatomy_of(probe.model).norm
        self.widths = [None] * len(supernet.parts)
        self.streams = [self.walk.hidden]  # before every layer, for every block

    @torch.no_grad()
    def measure(self, widths):
        """Divergence of every window with these widths, and the streams to pass to :meth:`accept`."""
        changed = [i for i, (old, new) in enumerate(zip(self.widths, widths)) if old != new]
        for i in changed:
            self.supernet.put(i, widths[i])
        try:
            first = min([self.layers[i] for i in changed], default=len(self.walk.layers))
            first = min(first, len(self.streams) - 1)
            streams = []
            hidden = self.streams[first]
            for layer in range(first, len(self.walk.layers)):
                hidden = [self.walk.run(layer, block, h) for block, h in enumerate(hidden)]
                streams.append(hidden)
            finals = (self.norm(h) for h in hidden)
            return self.probe.windows(finals), (widths, first, streams)
        finally:
            for i in changed:
                if self.widths[i] is None:
                    self.supernet.take(i)
                else:
                    self.supernet.put(i, self.widths[i])

    def accept(self, trial):
        """Continue from a trial."""
        widths, first, streams = trial
        for i, (old, new) in enumerate(zip(self.widths, widths)):
            if old != new:
                self.supernet.put(i, new)
        self.widths = widths
        self.streams = self.streams[: first + 1] + streams

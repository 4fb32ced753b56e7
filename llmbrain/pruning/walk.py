"""Walks: calibration text passes through a model one layer at a time while statistics are collected."""

from functools import partial

import torch

from ..exceptions import UnsupportedArchitectureError
from ..models.anatomy import anatomy_of
from ..models.finite import not_finite_error
from ..models.hooks import attached, restoring
from ..models.inputs import check_readable, input_device
from ..parallel import all_reduce, alone, share
from ..text import pad


class Walk:
    """Calibration blocks on their way through a decoder, one layer at a time.

    Only the inputs of the current layer are held in memory: ``hidden``, one tensor of shape (n_windows, n_longest,
    hidden_size) per block. Several processes share the blocks: ``blocks`` are those of this process, ``numbers`` their
    places among all.
    """

    def __init__(self, model, blocks):
        check_readable(model, (window.ids for block in blocks for window in block.windows))
        self.numbers = share(range(len(blocks)))
        self.model, self.blocks = model, [blocks[i] for i in self.numbers]
        self.layers = anatomy_of(model).layers
        self.device = input_device(model)
        self.masks = [b.mask.to(self.device) for b in self.blocks]
        self.hidden, self._arguments = [], []
        self.direct = {}  # results of writes_to_stream
        for block in self.blocks:
            self._capture(block)

    @torch.no_grad()
    def _capture(self, block):
        """Record what the decoder passes to each layer besides the hidden states.

        Only the first layer computes, which shows what a layer returns; the others return their input.
        """
        arguments, first, rest = [], [], []

        def note(args, kwargs):
            hidden = args[0] if args else kwargs["hidden_states"]
            arguments.append((args[1:], {k: v for k, v in kwargs.items() if k != "hidden_states"}))
            return hidden

        def before(module, args, kwargs):
            first.append(note(args, kwargs))

        def after(module, args, output):
            rest[:] = [output[1:] if isinstance(output, tuple) else None]

        def skip(*args, **kwargs):
            hidden = note(args, kwargs)
            return hidden if rest[0] is None else (hidden, *rest[0])

        own = [layer.__dict__.get("forward") for layer in self.layers]

        def restore():
            for layer, forward in zip(self.layers[1:], own[1:]):
                layer.__dict__.pop("forward", None)
                if forward is not None:
                    layer.forward = forward

        top = self.layers[0]
        hooks = [(partial(top.register_forward_pre_hook, with_kwargs=True), before), (top.register_forward_hook, after)]
        with attached(hooks), restoring(restore):
            for layer in self.layers[1:]:
                layer.forward = skip
            self.model.base_model(**block.inputs(self.device), use_cache=False)
        if len(arguments) != len(self.layers):
            raise UnsupportedArchitectureError(
                f"{type(self.model).__name__} ran {len(arguments)} of its {len(self.layers)} layers; it cannot be "
                "run layer by layer."
            )
        self.hidden.append(first[0])
        self._arguments.append(arguments)

    @torch.no_grad()
    def run(self, layer, block, hidden=None):
        """Run one layer on one block (or other hidden states), with the arguments that the model itself would pass."""
        args, kwargs = self._arguments[block][layer]
        return _first(self.layers[layer](self.hidden[block] if hidden is None else hidden, *args, **kwargs))

    def rows(self, layer, block, hidden, rows):
        """Run one layer on hidden states of some windows of one block; gradients are followed if they are enabled."""
        return self.apply(layer, hidden, self.arguments(layer, block, rows))

    def arguments(self, layer, block, rows):
        """What the model passes to a layer besides the hidden states, for some windows of one block."""
        return _of_rows(self._arguments[block][layer], rows, len(self.masks[block]))

    def apply(self, layer, hidden, arguments):
        """Run one layer on hidden states with these arguments."""
        args, kwargs = arguments
        return _first(self.layers[layer](hidden, *args, **kwargs))

    @torch.no_grad()
    def has_rows(self):
        """Whether some windows of a block can be run alone: every process tries it on one of its blocks."""
        failed = torch.zeros(1)
        if self.blocks:
            rows, hidden = slice(0, 1), self.hidden[0]
            try:
                alone, whole = self.rows(0, 0, hidden[rows], rows), self.run(0, 0)[rows]
                failed[0] = not torch.allclose(alone[self.masks[0][rows]], whole[self.masks[0][rows]], 1e-2, 1e-3)
            except (RuntimeError, ValueError, IndexError):  # whatever a model does with arguments of other shapes
                failed[0] = 1
        return not bool(all_reduce(failed))

    def advance(self, layer):
        """Replace the hidden states by the outputs of ``layer``."""
        for i in range(len(self.blocks)):
            self.hidden[i] = self.run(layer, i)
        self._check_finite()

    def restart(self, hidden):
        """Replace the current hidden states."""
        self.hidden = list(hidden)
        self._check_finite()

    def _check_finite(self):
        """Refuse hidden states that are not finite. A finite sum proves that all terms are; otherwise look at each."""
        for block, hidden, mask in zip(self.blocks, self.hidden, self.masks):
            total = hidden.sum(-1, dtype=torch.float32)[mask].sum()
            if not torch.isfinite(total) and not torch.isfinite(hidden[mask]).all():
                inputs = block.inputs(self.device)
                run = partial(self.model.base_model, **inputs, use_cache=False)
                raise not_finite_error(self.model, run, "The activations on the calibration text")

    @torch.no_grad()
    def check(self):
        """Check on two short windows that walking layer by layer reproduces the output of the model."""
        if not self.blocks:  # another process has it
            return
        lengths = {len(window): window for window in self.blocks[-1].windows}
        with alone():
            few = Walk(self.model, [pad([lengths[n] for n in sorted(lengths)[:2]])])
        few._check_first()

    def _check_first(self):
        last = []

        def keep(module, args, output):
            last.append(_first(output))

        with attached([(self.layers[-1].register_forward_hook, keep)]):
            self.model.base_model(**self.blocks[0].inputs(self.device), use_cache=False)
        hidden = self.hidden[0]
        for i in range(len(self.layers)):
            hidden = self.run(i, 0, hidden)
        gap = float((hidden - last[0]).abs().max())
        if not gap <= 1e-3 * float(last[0].abs().max()):
            raise UnsupportedArchitectureError(
                f"{type(self.model).__name__} does not give the same result layer by layer (difference {gap:.3g}): "
                "its layers share state that cannot be passed on."
            )


def _of_rows(value, rows, n):
    """The same arguments for some of ``n`` windows: tensors with an entry, or one per head, for each are cut."""
    if isinstance(value, torch.Tensor):
        each = len(value) // n if value.ndim > 2 and len(value) % n == 0 else int(value.ndim == 2 and len(value) == n)
        return value[slice(rows.start * each, rows.stop * each)] if each else value
    if isinstance(value, dict):
        return {key: _of_rows(item, rows, n) for key, item in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_of_rows(item, rows, n) for item in value)
    return value


def _first(output):
    return output[0] if isinstance(output, tuple) else output

"""Many lesions in one forward pass.

A condition differs from the intact model only from its first lesioned layer on. A pass therefore starts with the rows
of the intact batch. At the layer where a condition begins, a copy of the intact rows joins the batch, and the neurons
of the condition are edited in these rows in every later layer. The layers before a lesion are computed once for all
conditions of the pass, and the matrix products are as large as the memory allows.
"""

import contextlib
from dataclasses import dataclass
from functools import partial

import numpy as np

from ..evaluation.losses import check_length, scored_losses
from ..evaluation.reader import LogitReader
from ..models.anatomy import anatomy_of
from ..models.finite import first_not_finite, not_finite_error
from ..models.hooks import attached, site_hooks
from ..models.inputs import check_readable, input_device
from ..parallel import share
from ..stats.precision import exact_products
from ..text import Window, group_windows, pad
from ..text.windows import token_mask
from .context import Lesion, check_hooks_reach
from .positions import FixedPositions, scored_positions

# prefix: conditions join at their first lesioned layer; rows: all rows from the first layer on; single: one condition
# at a time through a Lesion. All give the same numbers
MODES = ("prefix", "rows", "single")


@dataclass(frozen=True)
class Passes:
    """How lesions are run."""

    max_batch_tokens: int = 4096  # in a forward pass, all rows together; bounds the memory
    mode: str = "prefix"  # one of MODES
    positions: object = "all"  # at which tokens the edits act, see llmbrain.lesions.positions


@dataclass(frozen=True)
class BatchPlan:
    """One forward pass."""

    sequences: np.ndarray  # positions of the sequences
    conditions: np.ndarray  # positions of the conditions under which they are read
    with_intact: bool  # whether the losses of the intact model are computed as well

    @property
    def rows(self):
        """The rows of the result that the pass computes; row 0 is the intact model."""
        return np.r_[0, self.conditions + 1] if self.with_intact else self.conditions + 1


def plan_batches(sequences, first_layers, max_batch_tokens):
    """Split a study into forward passes of at most ``max_batch_tokens`` tokens (rows times longest sequence).

    Every pair of a sequence and a condition occurs once, and every sequence once intact. ``first_layers`` is the first
    lesioned layer of each condition.
    """
    order = np.argsort(-np.asarray(first_layers), kind="stable")
    # several sequences together keep the products large even if few conditions remain
    share = max(1, max_batch_tokens // 8)
    plans = []
    for rows in group_windows(sequences, max_tokens=share):
        tokens = len(rows) * max(len(sequences[i]) for i in rows)
        at_once = max(1, max_batch_tokens // tokens - 1)
        n_passes = max(1, -(-len(order) // at_once))
        for k, part in enumerate(np.array_split(order, n_passes)):
            plans.append(BatchPlan(rows, part, k == 0))
    return plans


def condition_losses(model, sites, sequences, edits, passes=None, *, done=None, progress=None, part=None):
    """Sum the losses of every sequence, intact (row 0) and under every edit: ``(1 + n_edits, n_sequences)``, in nats.

    ``sites`` follow the layer order of the edits' geometry. ``done`` is the result of an interrupted call, with NaN for
    missing values, and is filled in place. ``progress`` is called after each pass with the number of (condition, token)
    pairs done and the array so far. A loss that is not finite is an error that names the module or the lesion.

    With a share ``part``, or in several processes, some of the passes are made and the values of the others stay NaN.
    The passes are those of the whole study, so every value has the bits that a single process computes.
    """
    import torch

    check_hooks_reach(model)
    check_readable(model, (sequence.ids for sequence in sequences))
    if sequences:
        check_length(model, sequences)
    passes = passes or Passes()
    sums = np.full((1 + len(edits), len(sequences)), np.nan) if done is None else done
    reader = LogitReader(model)
    first = np.array([start_of(edit, sites) for edit in edits], dtype=int)
    plans = plan_batches(sequences, first, passes.max_batch_tokens)
    if part is not None:
        plans = part.of(plans, _costs(plans, sequences, first, model))
    plans = [plan for plan in plans if np.isnan(sums[np.ix_(plan.rows, plan.sequences)]).any()]
    if part is None:
        plans = share(plans, _costs(plans, sequences, first, model))
    for plan in plans:
        wanted = plan.rows
        batch = [sequences[i] for i in plan.sequences]
        chosen = [edits[c] for c in plan.conditions]
        with torch.no_grad():
            result = _PASSES[passes.mode](reader, sites, batch, chosen, plan.with_intact, passes.positions)
        _check_finite(result, reader, sites, batch, [None, *edits], wanted, passes.positions)
        sums[np.ix_(wanted, plan.sequences)] = result
        if progress is not None:
            progress(len(wanted) * sum(len(s) for s in batch), sums)
    return sums


def _costs(plans, sequences, first_layers, model):
    """Estimate the cost of each pass: token rows times the layers that they run through, and the head by its size."""
    layers, head = anatomy_of(model).layers, model.get_output_embeddings()
    n_layers = len(layers)
    own = sum(p.numel() for layer in layers for p in layer.parameters()) / n_layers
    whole = n_layers + (0 if head is None else sum(p.numel() for p in head.parameters()) / own)
    costs = []
    for plan in plans:
        first = first_layers[plan.conditions]
        # without their losses, intact rows end where the last condition has joined
        n_rows = float((whole - first).sum()) + (whole if plan.with_intact else float(first.max()))
        costs.append(n_rows * len(plan.sequences) * max(len(sequences[i]) for i in plan.sequences))
    return costs


def _check_finite(result, reader, sites, batch, conditions, wanted, positions):
    """Refuse sums that are not finite: name the module for the intact model, and the lesion where it is the cause."""
    if np.isfinite(result).all():
        return
    ids, mask = pad(batch).to_device(input_device(reader.model))
    run = partial(reader.model, input_ids=ids, attention_mask=mask, use_cache=False)
    edit = conditions[wanted[np.flatnonzero(~np.isfinite(result).all(axis=1))[0]]]
    if edit is None or first_not_finite(reader.model, run) is not None:
        raise not_finite_error(reader.model, run, "The losses of the intact model")
    where = scored_positions(positions, batch, ids)
    with Lesion(reader.model, edit, sites, None if where is None else FixedPositions(where)):
        raise not_finite_error(reader.model, run, f"The losses under the lesion of {edit.mask.name or 'a mask'}")


def row_mode(model, sites, edits):
    """Find the fastest of :data:`MODES` that gives the same losses as single lesions on a small trial."""
    import torch

    # architectures pass different arguments to their blocks; instead of keeping a list of them, two short sequences are
    # run in every mode, with the edits that begin first and last
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = np.random.default_rng(0).integers(0, vocabulary, 12)
    trial = [Window(ids[:7], np.ones(7, bool)), Window(ids[7:], np.ones(5, bool))]
    starts = [start_of(edit, sites) for edit in edits]
    few = [edits[i] for i in sorted({int(np.argmin(starts)), int(np.argmax(starts))})]
    with torch.no_grad():
        expected = _pass_single(LogitReader(model), sites, trial, few, True)
        for mode in MODES[:2]:
            try:
                got = _PASSES[mode](LogitReader(model), sites, trial, few, True)
            except (RuntimeError, ValueError, IndexError, TypeError):
                continue
            tolerance = 1e-4 if exact_products(model.dtype) else 5e-2
            if np.allclose(got, expected, rtol=tolerance, atol=tolerance, equal_nan=True):
                return mode
    return "single"


def start_of(edit, sites):
    """Find the first layer of the model that an edit changes, or the last layer if it changes none."""
    return min((sites[i].layer for i in edit.layers), default=max(site.layer for site in sites))


# ------------------------------------------------------------------------------------------------ the passes
def _pass_single(reader, sites, batch, edits, with_intact, positions="all"):
    """Run one condition after the other, each under its own lesion."""
    sums = []
    ids, mask = pad(batch).to_device(input_device(reader.model))
    where = scored_positions(positions, batch, ids)
    tracker = None if where is None else FixedPositions(where)
    for edit in ([None] if with_intact else []) + list(edits):
        with contextlib.nullcontext() if edit is None else Lesion(reader.model, edit, sites, tracker):
            hidden = reader.read(ids, mask)
        sums.append(_sums(hidden, reader, ids, batch)[0])
    return np.stack(sums)


def _pass_rows(reader, sites, batch, edits, with_intact, positions="all"):
    """Run all conditions as rows from the first layer on."""
    ids, mask = pad(batch).to_device(input_device(reader.model))
    n_blocks = len(edits) + with_intact
    where = scored_positions(positions, batch, ids)
    rows = _Rows(edits, len(batch), ids.shape[1], where, intact=with_intact, active=range(len(edits)))
    mask = None if mask is None else mask.repeat(n_blocks, 1)
    with site_hooks(sites, rows.edit):
        hidden = reader.read(ids.repeat(n_blocks, 1), mask)
    return _sums(hidden, reader, ids, batch, n_blocks)


def _pass_prefix(reader, sites, batch, edits, with_intact, positions="all"):
    """Run all conditions; each joins the batch at the layer where it begins."""
    blocks = anatomy_of(reader.model).layers
    ids, mask = pad(batch).to_device(input_device(reader.model))
    rows = _Rows(edits, len(batch), ids.shape[1], scored_positions(positions, batch, ids), intact=True, active=())
    starts = [start_of(edit, sites) for edit in edits]
    hooks = []
    for layer, block in enumerate(blocks):
        joining = [c for c, start in enumerate(starts) if start == layer]
        before = rows.joining(joining, keep_intact=with_intact)
        hooks.append((partial(block.register_forward_pre_hook, with_kwargs=True), before))
    with attached(hooks), site_hooks(sites, rows.edit):
        hidden = reader.read(ids, mask)
    order = rows.order
    sums = _sums(hidden, reader, ids, batch, len(order))
    return sums[np.argsort(order)]  # the intact rows carry the number -1 and come first


_PASSES = {"prefix": _pass_prefix, "rows": _pass_rows, "single": _pass_single}


class _Rows:
    """The blocks of rows that are in a pass at the moment, and the edit of each.

    ``order`` lists the conditions in the order of their rows; -1 stands for the intact rows.
    """

    def __init__(self, edits, batch, n_tokens, where=None, *, intact, active):
        self.edits, self.batch, self.n_tokens = edits, batch, n_tokens
        self.where = None if where is None else where.reshape(-1, 1)  # the same for all blocks of rows
        self.states = [edit.state() for edit in edits]
        self.order = ([-1] if intact else []) + list(active)
        self.left = len(edits) - len(self.order) + intact
        self._masks = {}

    # -- rows join and leave --------------------------------------------------------------------------------------
    def joining(self, conditions, keep_intact):
        """Make a pre-hook of a decoder block: conditions join, and other inputs of the rows are repeated."""

        def before(module, args, kwargs):
            args, kwargs = list(args), dict(kwargs)
            hidden = args[0] if args else kwargs["hidden_states"]
            if conditions:
                hidden = self._join(hidden, conditions, keep_intact)
            n_blocks = hidden.shape[0] // self.batch
            args[1:] = [self._repeat(a, n_blocks) for a in args[1:]]
            kwargs = {k: v if k == "hidden_states" else self._repeat(v, n_blocks) for k, v in kwargs.items()}
            if args:
                args[0] = hidden
            else:
                kwargs["hidden_states"] = hidden
            return tuple(args), kwargs

        return before

    def _join(self, hidden, conditions, keep_intact):
        import torch

        intact = hidden[: self.batch]  # block 0 until it leaves, which is when the last condition has joined
        self.order += conditions
        self.left -= len(conditions)
        new = intact.repeat(len(conditions), *[1] * (hidden.ndim - 1))
        if not self.left and not keep_intact:
            self.order.remove(-1)
            hidden = hidden[self.batch :]
        return torch.cat([hidden, new])

    def _repeat(self, value, n_blocks):
        import torch

        if isinstance(value, (tuple, list)):
            return type(value)(self._repeat(v, n_blocks) for v in value)
        if not isinstance(value, torch.Tensor) or value.ndim < 2 or n_blocks == 1:
            return value
        # with one sequence everything has a first axis of 1 and is broadcast
        of_rows = self.batch > 1 and value.shape[0] == self.batch
        return value.repeat(n_blocks, *[1] * (value.ndim - 1)) if of_rows else value

    # -- editing --------------------------------------------------------------------------------------------------
    def edit(self, layer, x):
        """Edit every block's own neurons in a layer (:func:`llmbrain.models.hooks.site_hooks`)."""
        import torch

        touched = [(k, c) for k, c in enumerate(self.order) if c >= 0 and self.edits[c].units[layer].size]
        touched = [(k, c) for k, c in touched if self.edits[c].strength]
        if not touched:
            return None
        blocks = x.reshape(len(self.order), self.batch * self.n_tokens, x.shape[-1])
        where = None if self.where is None else self.where.to(x.device)
        if all(self.edits[c].removes for _, c in touched):
            mask = self._mask(layer, x.device)
            # on a CPU, masked_fill of a broadcast mask takes three times as long
            silent = torch.where(mask if where is None else mask & where, blocks.new_zeros(()), blocks)
            return silent.reshape(x.shape)
        blocks = blocks.clone()
        for k, c in touched:
            units = self.states[c].units(layer, x.device)
            old = blocks[k][:, units]
            new = self.states[c].new_values(layer, old.reshape(self.batch, self.n_tokens, -1)).reshape(old.shape)
            blocks[k][:, units] = new if where is None else new.where(where, old)
        return blocks.reshape(x.shape)

    def _mask(self, layer, device):
        import torch

        key = (layer, device, tuple(self.order))
        if key not in self._masks:
            lesioned = [
                self.edits[c].mask_of(layer) if c >= 0 else np.zeros_like(self.edits[0].mask_of(layer))
                for c in self.order
            ]
            self._masks[key] = torch.from_numpy(np.stack(lesioned))[:, None].to(device)
        return self._masks[key]


def _sums(hidden, reader, ids, batch, n_blocks=1):
    """Sum the losses of each block of rows, shape ``(n_blocks, n_sequences)``."""
    # one call for all blocks: the product with the head is as large as those of the layers
    scored = token_mask(batch, "scored", ids.shape).repeat(n_blocks, 1)
    losses = scored_losses(hidden, reader, ids.repeat(n_blocks, 1), scored)
    starts = np.cumsum([0] + [window.n_scored for window in batch])
    blocks = losses.reshape(n_blocks, starts[-1])
    return np.stack([blocks[:, a:b].sum(axis=1, dtype=np.float64) for a, b in zip(starts, starts[1:])], axis=1)

"""Capture of activations: one forward pass per batch gives the activations of the kept tokens and their surprisal.

A scanner runs the batches of whole runs and passes each token's neurons to the writers in file order.
:class:`HostScanner` copies activations to main memory at once. :class:`~llmbrain.recording.cuda.CudaScanner` puts them
in file order on the device, and copies and writes them while the next batch is computed.
"""

import inspect
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ..exceptions import RecordingError
from ..models.hooks import site_hooks
from ..models.inputs import input_device

# Rows of logits turned into probabilities at a time: they fit the cache, and no second copy of all logits is made.
_CHUNK = 32
_CHUNK_GPU = 1024
_ROWS = 16  # tokens put in file order at a time; they should fit the processor's cache


class NotFiniteError(RecordingError):
    """An activation is infinite or not a number; ``row`` is its token's position among the kept tokens of the batch."""

    def __init__(self, site, row, unit, value):
        super().__init__(f"{site.name}, unit {unit}: {value}")
        self.site, self.row, self.unit, self.value = site, row, unit, value


def run_batch(model, sites, batch, places, on_rows, surprisals=True):
    """Run a model on a batch and pass on the activations of chosen tokens.

    ``places`` are the positions of the kept tokens in each row of the batch. ``on_rows(i, rows)`` is called once per
    site with a copy of the activations, ``(n_kept, size)``, on the site's device and in its type. Returns the
    surprisals in nats, ``(n_kept,)`` float32 on the device of the logits, NaN for the first token of a row; with
    ``surprisals=False`` the output head is skipped. A site that sees a different number of tokens is an error.
    """
    import torch

    width = batch.ids.shape[1]
    keep = np.concatenate([row * width + np.asarray(kept) for row, kept in enumerate(places)])
    index = {}
    seen = set()

    def keep_rows(i, x):
        flat = x.reshape(-1, x.shape[-1])
        if flat.shape[0] != batch.ids.numel():
            raise RecordingError(
                f"{sites[i].name} received {flat.shape[0]} tokens instead of {batch.ids.numel()}. Its "
                "tokens cannot be identified, so it cannot be recorded."
            )
        if x.device not in index:
            index[x.device] = _send(keep, x.device)
        seen.add(i)
        on_rows(i, flat.index_select(0, index[x.device]))

    reader = model if surprisals else model.base_model
    inputs, options = _arguments(reader, batch, input_device(model))
    values = None
    with torch.no_grad(), site_hooks(sites, keep_rows):
        output = reader(**inputs, **options)
        if surprisals:
            values = surprisal(output.logits, inputs["input_ids"], places)
    missing = set(range(len(sites))) - seen
    if missing:
        raise RecordingError(f"{sites[min(missing)].name} was not used by the forward pass, so it cannot be recorded.")
    return values


def surprisal(logits, ids, places):
    """Compute ``-log p(token | tokens before)`` of chosen tokens in nats, ``(n_wanted,)`` float32, row after row.

    ``logits`` are ``(batch, tokens, vocabulary)``, ``ids`` ``(batch, tokens)``; ``places`` are the ascending positions
    of the chosen tokens in each row. Position 0 of a row gives NaN.
    """
    import torch

    parts = []
    for row, wanted in enumerate(places):
        if not len(wanted):
            continue
        last = int(wanted[-1])
        values = torch.full((last + 1,), float("nan"), dtype=torch.float32, device=logits.device)
        targets = ids[row, 1 : last + 1].to(logits.device)
        step = _CHUNK if logits.device.type == "cpu" else _CHUNK_GPU
        for a in range(max(int(wanted[0]), 1) - 1, last, step):
            chunk = logits[row, a : min(a + step, last)].float()
            target = targets[a : a + len(chunk)]
            values[a + 1 : a + 1 + len(chunk)] = torch.nn.functional.cross_entropy(chunk, target, reduction="none")
        parts.append(values[_send(np.asarray(wanted), values.device)])
    return torch.cat(parts)


class HostScanner:
    """Record runs, copying activations to main memory as they are computed.

    ``groups`` holds the sites of each recording, which are captured in the same forward pass. ``n_rows`` is the largest
    number of tokens that one batch keeps, and determines the size of the buffers. The attribute ``n_runs`` is the
    number of runs that :meth:`scan` records at once.
    """

    reserve = True  # see RunWriter

    def __init__(self, model, groups, n_rows, n_runs=1):
        self.model = model
        self.n_rows = n_rows
        self.n_runs = 1
        self.sites = [site for group in groups for site in group]
        self.place = columns_of(groups)
        self._widths = [sum(site.size for site in group) for group in groups]
        self._buffers = None

    def scan(self, runs, progress, before=None):
        """Record runs; return a function that waits until they are written.

        It returns the surprisals of the kept tokens: for each run one array per batch. ``before`` is called once,
        where a device computes: it finishes the runs of the scan before.
        ``runs`` lists ``(todo, writers)``: the batches of a run, ``(Batch, places, rows)``, and one RunWriter per group
        of sites. ``rows`` gives, for each row of the batch, the position of its first kept token in the run.
        ``progress`` is called with the number of kept tokens after each batch. A :class:`NotFiniteError` has the
        numbers of the run and the batch in ``run`` and ``batch``.
        """
        import torch

        if before is not None:
            before()
        if self._buffers is None:  # the last column stays zero: padding voxels are read from it
            self._buffers = [torch.empty(self.n_rows, width + 1) for width in self._widths]
            for buffer in self._buffers:
                buffer[:, -1] = 0
        with ThreadPoolExecutor(max(1, torch.get_num_threads())) as pool:
            found = [
                [self._batch(pool, run, number, *row, writers, progress) for number, row in enumerate(todo)]
                for run, (todo, writers) in enumerate(runs)
            ]
        return lambda: found

    def _batch(self, pool, run, number, batch, places, rows, writers, progress):
        n_kept = sum(map(len, places))
        try:
            values = run_batch(self.model, self.sites, batch, places, lambda i, x: self._keep(i, x, n_kept))
        except NotFiniteError as error:
            error.run, error.batch = run, number
            raise
        for writer, buffer in zip(writers, self._buffers):
            _write(pool, writer, buffer[:n_kept].numpy(), places, rows)
        progress(n_kept)
        return values.cpu().numpy()

    def _keep(self, i, rows, n_kept):
        import torch

        g, start, stop = self.place[i]
        target = self._buffers[g][:n_kept, start:stop]
        target.copy_(rows)
        if not torch.isfinite(target.sum()):  # a finite sum proves that every term is finite
            raise_if_not_finite(self.sites[i], target)


def columns_of(groups):
    """For each site of all groups, return its group and the columns where its neurons begin and end."""
    place = []
    for g, group in enumerate(groups):
        ends = np.cumsum([site.size for site in group])
        place += [(g, int(end) - site.size, int(end)) for site, end in zip(group, ends)]
    return place


def raise_if_not_finite(site, rows):
    """Raise :class:`NotFiniteError` for the first value of ``(n_kept, size)`` that is not finite."""
    import torch

    bad = (~torch.isfinite(rows)).nonzero()
    if len(bad):
        row, unit = (int(v) for v in bad[0])
        raise NotFiniteError(site, row, unit, float(rows[row, unit]))


def _write(pool, writer, block, places, rows):
    """Put the rows of a batch in file order, a few at a time, and write them at their positions."""
    for _ in pool.map(lambda piece: writer.write(piece[0], block[piece[1]]), pieces(places, rows, _ROWS)):
        pass  # re-raises errors of the threads


def pieces(places, rows, most):
    """Cut the kept tokens of a batch into pieces: yield the first row in the run, and the slice of the batch's rows."""
    start = 0
    for kept, row in zip(places, rows):
        for a in range(0, len(kept), most):
            yield row + a, slice(start + a, start + min(a + most, len(kept)))
        start += len(kept)


def _send(array, device):
    """Copy an array to a device without waiting for pending computations."""
    import torch

    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _arguments(model, batch, device):
    """Return the arguments of the model's forward for a batch, on a device."""
    inputs = {name: _send(tensor.numpy(), device) for name, tensor in batch.inputs().items()}
    return inputs, {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}

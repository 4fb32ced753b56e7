"""Recording on a CUDA device: while a batch is copied to the host and written, the next one is computed."""

import contextlib
import os
import queue
from concurrent.futures import ThreadPoolExecutor

from ..models.hooks import site_hooks
from .capture import columns_of, input_device, raise_if_not_finite, run_batch

__all__ = ["CudaScanner"]

_BYTES = 16 << 20  # of one transfer: long enough for the bus, short enough that many fit anywhere
_WRITERS = 16  # threads that fill pages of the files, at most; one takes 1 to 4 GiB/s
_SPARE = 4  # transfers under way while all threads write


class CudaScanner:
    """Take runs through a model that is on one CUDA device, or spread over several.

    Rows are collected on one device in the model's own type, ordered there as the file wants them and converted to
    its type, and copied to pinned memory on a second stream; threads put them in the file. Two sets of rows alternate,
    so that the device computes while the last batch leaves it. Memory is bounded by the two sets on the device and 20
    transfers of 16 MiB on the host.

    Parameters
    ----------
    model, groups, n_rows
        As for :class:`~llmbrain.recording.capture.HostScanner`.
    """

    reserve = False  # see RunWriter: the device would wait for it

    def __init__(self, model, groups, n_rows):
        import torch

        self.model = model
        self.sites = [site for group in groups for site in group]
        self.place = columns_of(groups)
        self.device = next(model.parameters()).device
        dtype = self._dtype()
        widths = [sum(site.size for site in group) for group in groups]
        self._sets = [
            [torch.zeros(n_rows, width + 1, dtype=dtype, device=self.device) for width in widths] for _ in range(2)
        ]
        self._lane = _Lane(self.device)
        self._n_writers = min(_WRITERS, os.cpu_count() or 1)
        self._slots = None

    def _dtype(self):
        """The type of all activations, by a look at one token, for weights do not tell; float32 if they are mixed."""
        import torch

        seen = set()
        ids = torch.zeros(1, 1, dtype=torch.int64, device=input_device(self.model))
        with torch.no_grad(), site_hooks(self.sites, lambda i, x: seen.add(x.dtype)):
            self.model(input_ids=ids)
        return seen.pop() if len(seen) == 1 else torch.float32

    def scan(self, todo, writers, progress):
        """As :meth:`llmbrain.recording.capture.HostScanner.scan`."""
        orders = [_Order(writer, self.device) for writer in writers]
        self._make_slots(max(order.row_bytes for order in orders))
        surprisals, finite, writing = [], [], []
        left = [None, None]  # when each set of rows has left the device
        with ThreadPoolExecutor(self._n_writers) as pool:
            for number, (batch, places, rows) in enumerate(todo):
                buffers = self._sets[number % 2]
                if number >= 2:
                    left[number % 2].synchronize()
                    self._check(number - 2, finite[number - 2], todo, buffers)
                n_kept = sum(map(len, places))
                views = [buffer[:n_kept] for buffer in buffers]
                surprisals.append(
                    run_batch(self.model, self.sites, batch, places, lambda i, x, v=views: self._keep(v, i, x))
                )
                with self._lane:
                    finite.append(self._all_finite(views))
                    for order, buffer in zip(orders, buffers):
                        writing += self._send(pool, order, buffer, places, rows)
                    left[number % 2] = self._lane.mark()
                writing = _unfinished(writing)
                progress(n_kept)
            self._lane.synchronize()
            for number in range(max(0, len(todo) - 2), len(todo)):
                self._check(number, finite[number], todo, self._sets[number % 2])
            for future in writing:
                future.result()
        for order in orders:
            order.finish()
        return [values.cpu().numpy() for values in surprisals]

    def _make_slots(self, row_bytes):
        """Pinned memory for the transfers, kept for all runs; a slot holds one token at least."""
        if self._slots is None or self._slot_bytes < row_bytes:
            self._slot_bytes = max(_BYTES, row_bytes)
            self._slots = queue.Queue()
            for _ in range(self._n_writers + _SPARE):
                self._slots.put(self._lane.host_bytes(self._slot_bytes))

    def _keep(self, views, i, rows):
        g, start, stop = self.place[i]
        views[g][:, start:stop] = rows

    def _send(self, pool, order, buffer, places, rows):
        """Start the copies of a batch's rows; returns what is being written."""
        futures, start = [], 0
        step = self._slot_bytes // order.row_bytes
        for kept, row in zip(places, rows):
            for a in range(0, len(kept), step):
                n = min(step, len(kept) - a)
                ordered = order(buffer[start + a : start + a + n])
                slot = self._slots.get()
                target = slot[: ordered.numel() * ordered.element_size()].view(ordered.dtype).view(ordered.shape)
                target.copy_(ordered, non_blocking=True)
                futures.append(pool.submit(self._write, order.writer, row + a, target, slot, self._lane.mark()))
            start += len(kept)
        return futures

    def _write(self, writer, row, target, slot, arrived):
        try:
            arrived.synchronize()
            writer.put_mapped(row, target.numpy())
        finally:
            self._slots.put(slot)

    def _all_finite(self, views):
        """Whether the sums are finite, for each group, on the host as soon as the rows have left the device."""
        import torch

        flags = self._lane.host_bytes(len(views)).view(torch.bool)
        sums = [view.sum(dtype=torch.float32) for view in views]
        return flags.copy_(torch.stack(sums).isfinite(), non_blocking=True)

    def _check(self, number, finite, todo, buffers):
        """Look closer at a batch whose sum is not finite, while its rows are still there."""
        if bool(finite.all()):
            return
        n_kept = sum(map(len, todo[number][1]))
        for site, (g, start, stop) in zip(self.sites, self.place):
            try:
                raise_if_not_finite(site, buffers[g][:n_kept, start:stop])
            except Exception as error:
                error.batch = number
                raise


def _unfinished(futures):
    """Raise what went wrong in a writing thread; returns those still at it."""
    for future in futures:
        if future.done():
            future.result()
    return [future for future in futures if not future.done()]


class _Lane:
    """The stream on which rows leave a device; on the CPU, where tests run, everything happens at once.

    As a ``with`` block, what is done inside waits for what the device has been given so far, and nothing else waits
    for it.
    """

    def __init__(self, device):
        import torch

        self.device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._block = contextlib.ExitStack()

    def __enter__(self):
        import torch

        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self.device))
            self._block.enter_context(torch.cuda.stream(self._stream))

    def __exit__(self, *error):
        self._block.close()

    def mark(self):
        """A point in time: its ``synchronize()`` waits until everything given to the lane so far is done."""
        return self if self._stream is None else self._stream.record_event()

    def synchronize(self):
        """Wait for all of it."""
        if self._stream is not None:
            self._stream.synchronize()

    def host_bytes(self, n):
        """Main memory that the device can reach by itself."""
        import torch

        return torch.empty(n, dtype=torch.uint8, pin_memory=self._stream is not None)


class _Order:
    """Put rows in file order on the device, and into the type of the file."""

    def __init__(self, writer, device):
        import torch

        self.writer = writer
        self.columns = torch.from_numpy(writer.columns).to(device)
        self.steps = None if writer.steps is None else torch.from_numpy(writer.steps).to(device)
        self.row_bytes = len(writer.columns) * writer.dtype.itemsize
        self._clipped = torch.zeros((), dtype=torch.int64, device=device)

    def __call__(self, rows):
        import torch

        ordered = rows.index_select(1, self.columns).float()
        if self.steps is None:
            return ordered
        steps = ordered.mul_(self.steps).round_()
        self._clipped += (steps.abs() > 32767).sum()
        return steps.clamp_(-32767, 32767).to(torch.int16)

    def finish(self):
        self.writer.n_clipped += int(self._clipped)
